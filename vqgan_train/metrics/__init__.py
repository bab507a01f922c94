"""Metrics of images, tokens and image sets, defined once for training and evaluation."""
