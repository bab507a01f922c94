"""The folder of a run, where the run starts, and its logs."""
