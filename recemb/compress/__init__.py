"""Compression after training: the tables of a checkpoint made smaller, one method per file."""
