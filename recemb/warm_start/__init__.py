"""Warm start: a new model takes over what a checkpoint of another configuration knows."""
