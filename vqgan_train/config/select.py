"""Settings of `python -m vqgan_train.select`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


@dataclass(kw_only=True, slots=True)
class PeopleConfig:
    """Pictures of people, of which there may be more than by chance."""

    multiplier: float
    """How many times as likely a picture of people is drawn as another one. 1: no difference."""

    words: list[str]
    """A caption with one of them, whole and in any case, means people."""

    detect_faces: bool
    """Look for faces, too. Needs the extra `faces`; about 0.1 s an image and process."""

    def __post_init__(self) -> None:
        require(
            self.multiplier > 0,
            f"people.multiplier is {self.multiplier}; it must be more than 0. 1 changes nothing.",
        )
        require(
            all(word.strip() for word in self.words),
            "people.words has an empty word, which every caption would have. Remove it.",
        )


@dataclass(kw_only=True, slots=True)
class SelectConfig:
    """Which samples of which sources become training and validation shards."""

    sources: dict[str, Any]
    """Of each source, by name, the shards: path, glob or brace pattern, or a list of those.
    null: this source is left out. A duplicate image counts for the source that is named first."""

    weights: dict[str, float]
    """Of each source its share of the training samples, relative to the others' weights."""

    output: str
    """Folder for train/, val/ and the report; new, empty, or that of the same command before."""

    samples: int
    """Training samples."""

    val_samples: int
    """Validation samples; their images are in no training shard."""

    val_source: str
    """Name of the source that gives them."""

    samples_per_shard: int
    """Samples a shard."""

    min_side: int
    """Shorter side that an image must have, in pixels."""

    allow_fewer: bool
    """Take what there is where a source does not hold its share, instead of stopping."""

    people: PeopleConfig
    """More people and faces."""

    seed: int
    """Seeds the choice and the order."""

    num_workers: int
    """Processes that read and decode. 0: this one alone."""

    def __post_init__(self) -> None:
        self._take_sources()
        require_at_least(
            1,
            samples=self.samples,
            samples_per_shard=self.samples_per_shard,
            min_side=self.min_side,
        )
        require_at_least(
            0, val_samples=self.val_samples, seed=self.seed, num_workers=self.num_workers
        )

    def _take_sources(self) -> None:
        require(
            self.sources.keys() == self.weights.keys(),
            f"The sources are {', '.join(self.sources)}, and weights are given for "
            f"{', '.join(self.weights)}. Give each source a weight, as in +sources.NAME=... "
            "+weights.NAME=1. To leave one out: sources.NAME=null.",
        )
        self.sources = {
            name: as_list(shards) for name, shards in self.sources.items() if shards is not None
        }
        self.weights = {name: self.weights[name] for name in self.sources}
        require(
            self.val_source in self.sources,
            f"val_source is {self.val_source}; the sources are {', '.join(self.sources) or 'none'}."
            " Name one of them.",
        )
        for name, weight in self.weights.items():
            require(weight > 0, f"weights.{name} is {weight}; it must be more than 0.")
