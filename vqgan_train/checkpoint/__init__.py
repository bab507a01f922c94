"""Reading and writing of checkpoints, and conversion of their weight names."""
