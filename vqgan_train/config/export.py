"""Settings of `python -m vqgan_train.export`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import require


class ExportFormat(Enum):
    """Who is to read the weights; docs/export.md says what is written for each."""

    flax = "flax"
    safetensors = "safetensors"
    taming = "taming"
    diffusers = "diffusers"


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """One checkpoint, written in one format."""

    checkpoint: str
    """The file: ours, or one of taming-transformers, safetensors, Flax or diffusers."""

    output: str
    """Folder for the export, made if need be. Another export's files are never overwritten."""

    format: ExportFormat

    def __post_init__(self) -> None:
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
