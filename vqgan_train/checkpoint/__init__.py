"""Checkpoints: reading them, writing them, and the names that the original gives to weights."""

from vqgan_train.checkpoint.architecture import (
    architecture_differences,
    discriminator_architecture,
    generator_architecture,
    network_differences,
)
from vqgan_train.checkpoint.export_formats import FORMATS, Format
from vqgan_train.checkpoint.file_kind import file_kind
from vqgan_train.checkpoint.load_report import LoadReport, require_generator
from vqgan_train.checkpoint.reading import (
    Networks,
    read_checkpoint,
    read_generator,
    read_networks,
    weights_under_our_names,
)
from vqgan_train.checkpoint.unpickling import StandIn
from vqgan_train.checkpoint.weight_names import to_original, to_ours
from vqgan_train.checkpoint.writing import save_atomically

__all__ = [
    "FORMATS",
    "Format",
    "LoadReport",
    "Networks",
    "StandIn",
    "architecture_differences",
    "discriminator_architecture",
    "file_kind",
    "generator_architecture",
    "network_differences",
    "read_checkpoint",
    "read_generator",
    "read_networks",
    "require_generator",
    "save_atomically",
    "to_original",
    "to_ours",
    "weights_under_our_names",
]
