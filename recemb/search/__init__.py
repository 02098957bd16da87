"""Learned dimension search: which dimensions and ids of tables are worth their bytes."""
