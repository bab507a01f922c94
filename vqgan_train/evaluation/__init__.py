"""Evaluate checkpoints: one pass over the images, on one process or several."""
