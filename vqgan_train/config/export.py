"""Settings of `python -m vqgan_train.export`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import require
from vqgan_train.system.errors import as_typed

HUB_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
HUB_IDENTIFIER = re.compile(r"[a-z0-9.-]+")
OTHER_LICENSE = "other"
"""Identifier of the Hub for a license that has no identifier of its own."""


class ExportFormat(Enum):
    """Format of the exported weights; docs/export.md lists the files of each."""

    flax = "flax"
    safetensors = "safetensors"
    taming = "taming"
    diffusers = "diffusers"
    onnx = "onnx"
    release = "release"


class CardPictures(Enum):
    """Pictures in a release: none, or the newest grid of validation images."""

    none = "none"
    grid = "grid"


@dataclass(kw_only=True, slots=True)
class CardConfig:
    """Facts for the model card that no run records. null: the card says that it is missing."""

    license: str | None
    """The weights' license, as an identifier of the Hugging Face Hub: mit, cc-by-4.0, other, ..."""

    license_name: str | None
    """Name of the license; required by license=other, and only allowed there."""

    license_link: str | None
    """Web address of the license; required by license=other, and only allowed there."""

    datasets: list[str]
    """Datasets of the training images: names on the Hub, as USER/NAME, or free text."""

    hardware: str | None
    """Hardware that the model was trained on."""

    pictures: CardPictures
    """Pictures to publish. Validation photos may show people: look at them before."""

    def __post_init__(self) -> None:
        require(
            self.license is None or HUB_IDENTIFIER.fullmatch(self.license) is not None,
            f"card.license is {self.license!r}; give an identifier of the Hugging Face Hub, such "
            "as mit, or give other with card.license_name and card.license_link.",
        )
        named = (self.license_name is not None, self.license_link is not None)
        require(
            named == (self.license == OTHER_LICENSE,) * 2,
            f"card.license is {as_typed(self.license)}, card.license_name "
            f"{as_typed(self.license_name)}, card.license_link {as_typed(self.license_link)}. "
            "card.license=other needs both a name and a link; any other license takes neither.",
        )

    @property
    def is_empty(self) -> bool:
        """Whether no fact is given and no picture asked for."""
        has_no_facts = self.license is None and self.hardware is None and not self.datasets
        return has_no_facts and self.pictures == CardPictures.none


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Settings of one export."""

    checkpoint: str
    """Checkpoint of vqgan_train, taming-transformers, Flax or diffusers, or a safetensors file."""

    output: str
    """Output folder, created if missing. No file in it is overwritten by a different one."""

    format: ExportFormat

    averaged: bool
    """Take moving averages of the tokenizer's weights, which some other trainers save beside."""

    card: CardConfig
    """Facts for the model card; only used with format=release."""

    push_to_hub: str | None
    """Repository on the Hugging Face Hub, as USER/REPO, to upload a release to. null: no upload."""

    private: bool
    """Whether a repository that push_to_hub creates is private."""

    def __post_init__(self) -> None:
        require(self.checkpoint != "", "checkpoint is empty; give the path of a file.")
        require(self.output != "", "output is empty; give a folder.")
        require(
            self.push_to_hub is None or HUB_REPOSITORY.fullmatch(self.push_to_hub) is not None,
            f"push_to_hub is {self.push_to_hub!r}; give USER/REPO.",
        )
        require(
            self.format == ExportFormat.release
            or (self.push_to_hub is None and self.card.is_empty),
            f"push_to_hub and card only apply to a release, but format is {self.format.value}. Set "
            "format=release, or leave them out.",
        )
        require(
            not (self.averaged and self.format == ExportFormat.release),
            "averaged=true does not apply to a release, whose run saves no averages; leave it out.",
        )
