"""Checkpoints: reading them, writing them, and the names that the original gives to weights."""

from vqgan_train.checkpoint.names import to_original, to_ours
from vqgan_train.checkpoint.reading import (
    CheckpointError,
    read_checkpoint,
    read_generator,
    weights_under_our_names,
)
from vqgan_train.checkpoint.writing import write_atomically

__all__ = [
    "CheckpointError",
    "read_checkpoint",
    "read_generator",
    "to_original",
    "to_ours",
    "weights_under_our_names",
    "write_atomically",
]
