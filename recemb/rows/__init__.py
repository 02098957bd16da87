"""Rows stores: who owns physical rows, gathers them and applies the sparse optimizer."""
