"""Training: from the checked settings to a run folder with checkpoints."""
