"""Settings of `python -m vqgan_train.export`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from vqgan_train.config.checks import require, require_at_least

HUB_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
HUB_IDENTIFIER = re.compile(r"[a-z0-9.-]+")
OTHER_LICENSE = "other"
"""The hub's word for one that it has no word for."""


class ExportFormat(Enum):
    """Who is to read the weights; docs/export.md says what is written for each."""

    flax = "flax"
    safetensors = "safetensors"
    taming = "taming"
    diffusers = "diffusers"
    release = "release"


@dataclass(kw_only=True, slots=True)
class CardConfig:
    """What a model card says that no run knows. null: it is not known, which the card says."""

    license: str | None
    """Of the weights, by the hub's identifier: mit, cc-by-4.0, other, ..."""

    license_name: str | None
    """With license=other: what it is called."""

    license_link: str | None
    """With license=other: where it is."""

    datasets: list[str]
    """Names of the training images' datasets: USER/NAME on the hub, or any text."""

    hardware: str | None
    """What it was trained on."""

    location: str | None
    """Where that stood."""

    emissions_grams: float | None
    """CO2 equivalents of the training."""

    emissions_source: str | None
    """How they were found out."""

    def __post_init__(self) -> None:
        require(
            self.license is None or HUB_IDENTIFIER.fullmatch(self.license) is not None,
            f"card.license is {self.license!r}; give the hub's identifier, such as mit, or other "
            "with card.license_name and card.license_link.",
        )
        named = (self.license_name is not None, self.license_link is not None)
        require(
            named == (self.license == OTHER_LICENSE,) * 2,
            f"card.license is {self.license}, card.license_name {self.license_name}, "
            f"card.license_link {self.license_link}: name and link belong to card.license=other, "
            "which needs both.",
        )
        require_at_least(0, card__emissions_grams=self.emissions_grams)
        require(
            (self.emissions_grams is None) == (self.emissions_source is None),
            f"card.emissions_grams is {self.emissions_grams}, card.emissions_source is "
            f"{self.emissions_source}: give both, or neither.",
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return not any(getattr(self, name) is not None for name in _SAID) and not self.datasets


_SAID = ("license", "hardware", "location", "emissions_grams")


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """One checkpoint, written in one format."""

    checkpoint: str
    """The file: ours, or one of taming-transformers, safetensors, Flax or diffusers."""

    output: str
    """Folder for the export, made if need be. Another export's files are never overwritten."""

    format: ExportFormat

    card: CardConfig

    push_to_hub: str | None
    """With format=release: USER/REPO on Hugging Face's hub to upload to. null: nothing is."""

    private: bool
    """Whether a repository that push_to_hub makes is seen by its owner only."""

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
            f"push_to_hub and card belong to a release, but format is {self.format.value}. Take "
            "format=release, or leave them out.",
        )
