"""Parts that plug into Lightning: the module, loggers, checkpoint files, launchers."""
