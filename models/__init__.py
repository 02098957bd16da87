"""Models: one file per model, and the layers and tasks that they share."""
