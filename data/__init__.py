"""Data: files to batches. Generic readers, one file per public data set, a synthetic generator."""
