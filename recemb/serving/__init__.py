"""Serving: what was trained as a program that needs nothing but torch."""
