"""Table kinds, one per file: how ids become row numbers, and rows become vectors."""
