"""Checkpoints: reading them, writing them, and the names that the original gives to weights."""

from vqgan_train.checkpoint.architecture import (
    architecture_differences,
    discriminator_architecture,
    generator_architecture,
    network_differences,
)
from vqgan_train.checkpoint.errors import CheckpointError, ExportError
from vqgan_train.checkpoint.export_folder import atomic_export
from vqgan_train.checkpoint.file_kind import file_kind
from vqgan_train.checkpoint.formats import FORMATS, Format
from vqgan_train.checkpoint.names import to_original, to_ours
from vqgan_train.checkpoint.reading import (
    Networks,
    read_checkpoint,
    read_generator,
    read_networks,
    weights_under_our_names,
)
from vqgan_train.checkpoint.report import LoadReport, require_generator
from vqgan_train.checkpoint.stand_ins import StandIn
from vqgan_train.checkpoint.writing import remove_partial, write_atomically

__all__ = [
    "FORMATS",
    "CheckpointError",
    "ExportError",
    "Format",
    "LoadReport",
    "Networks",
    "StandIn",
    "architecture_differences",
    "atomic_export",
    "discriminator_architecture",
    "file_kind",
    "generator_architecture",
    "network_differences",
    "read_checkpoint",
    "read_generator",
    "read_networks",
    "remove_partial",
    "require_generator",
    "to_original",
    "to_ours",
    "weights_under_our_names",
    "write_atomically",
]
