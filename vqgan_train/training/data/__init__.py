"""Training data: the order of samples, and the loaders that read it."""
