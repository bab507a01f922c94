"""Metrics of images, tokens and sets, defined once for training and evaluation."""
