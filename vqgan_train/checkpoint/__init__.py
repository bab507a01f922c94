"""Reading and writing of checkpoints, and conversion of their weight names."""

from vqgan_train.checkpoint.architecture import discriminator_architecture, network_differences
from vqgan_train.checkpoint.export_formats import FORMATS, Format
from vqgan_train.checkpoint.load_report import LoadReport, require_generator
from vqgan_train.checkpoint.reading import (
    CheckpointWeights,
    read_checkpoint,
    read_networks,
    weights_under_our_names,
)
from vqgan_train.checkpoint.weight_names import to_original, to_ours
from vqgan_train.checkpoint.writing import save_atomically

__all__ = [
    "FORMATS",
    "CheckpointWeights",
    "Format",
    "LoadReport",
    "discriminator_architecture",
    "network_differences",
    "read_checkpoint",
    "read_networks",
    "require_generator",
    "save_atomically",
    "to_original",
    "to_ours",
    "weights_under_our_names",
]
