"""The folder of a run, the state that the run starts from, and its logs."""
