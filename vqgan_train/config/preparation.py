"""Settings of `python -m vqgan_train.check_data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


@dataclass(kw_only=True, slots=True)
class CheckDataConfig:
    """Shards to check before training."""

    shards: Any
    """Path, glob or brace pattern of tar files, or a list of those."""

    output: str | None
    """JSON file for the report. null: no file."""

    num_workers: int
    """Processes that read shards. 0: the main process."""

    image_size: int
    """Side of the model's images, in pixels; smaller images are reported."""

    def __post_init__(self) -> None:
        require(self.shards is not None, "shards is null; name at least one tar file.")
        self.shards = as_list(self.shards)
        require_at_least(0, num_workers=self.num_workers)
        require_at_least(1, image_size=self.image_size)


SMALLEST_SIDE = 256
"""Pixels that the model sees: scaling below that would lose what training needs."""


@dataclass(kw_only=True, slots=True)
class LinksConfig:
    """Lists of links, and how img2dataset downloads them."""

    links: Any
    """CC3M: its TSV. YFCC: metadata_*.jsonl.gz. Path, glob or brace pattern, or a list of those."""

    output: str
    """Folder for lists, shards and report; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Links that make a shard; those that are dead leave it smaller."""

    shorter_side: int | None
    """Larger images are scaled down to this shorter side, in pixels. null: they keep their size."""

    processes: int
    """Processes of img2dataset."""

    threads: int
    """Downloads at once in each process."""

    timeout_seconds: int
    """How long a server may take."""

    retries: int
    """Further tries at a link that failed."""

    min_success_fraction: float
    """Images had, as a fraction of links, below which the network is taken to be at fault."""

    environment: str | None
    """Virtual environment that has img2dataset. null: one is made in the cache, once."""

    def __post_init__(self) -> None:
        self.links = as_list(self.links)
        require_at_least(
            1,
            samples_per_shard=self.samples_per_shard,
            processes=self.processes,
            threads=self.threads,
            timeout_seconds=self.timeout_seconds,
        )
        require_at_least(0, retries=self.retries)
        require(
            self.shorter_side is None or self.shorter_side >= SMALLEST_SIDE,
            f"shorter_side is {self.shorter_side}; it must be at least {SMALLEST_SIDE}, or null.",
        )
        require(
            0 <= self.min_success_fraction <= 1,
            f"min_success_fraction is {self.min_success_fraction}; it must be in [0, 1].",
        )


@dataclass(kw_only=True, slots=True)
class PackConfig:
    """Folders of images, and the shards that they become."""

    inputs: Any
    """Folder of images, of any depth, or a list of folders."""

    output: str
    """Folder for the shards; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Images that make a shard. What cannot be read is left out, so shards may have fewer."""

    captions: str | None
    """CSV or TSV file with a header. null: text files beside images, a.txt of a.jpg."""

    captions_path_column: str
    """Column that names the image, relative to its input folder."""

    captions_text_column: str
    """Column that holds the caption."""

    num_workers: int
    """Processes that read and decode. 0: this one alone."""

    def __post_init__(self) -> None:
        self.inputs = as_list(self.inputs)
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)


@dataclass(kw_only=True, slots=True)
class PrepareYfccConfig:
    """Records of YFCC100M's OpenAI subset with their images, and the shards that they become."""

    records: Any
    """Parquet, or metadata_*.jsonl.gz. Path, glob or brace pattern, or a list of those."""

    images: str | None
    """Folder of the zip files, data/, that belong to jsonl. null: parquet, which has the images."""

    output: str
    """Folder for the shards; new, empty, or that of the same command before."""

    samples_per_shard: int
    """Records that make a shard; each file of records begins a new one."""

    num_workers: int
    """Processes that read and decode. 0: this one alone."""

    def __post_init__(self) -> None:
        self.records = as_list(self.records)
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)


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
