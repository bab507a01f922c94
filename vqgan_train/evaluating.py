"""Goes through images once, with all checkpoints, on one process or several."""
