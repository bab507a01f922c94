"""Settings of the commands that prepare shards: check_data, pack, select and prepare_*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqgan_train.config.checks import as_list, require, require_at_least


@dataclass(kw_only=True, slots=True)
class CheckDataConfig:
    """Settings for checking shards before training."""

    shards: Any
    """Tar files: path, glob or brace pattern, or a list of these."""

    output: str | None
    """JSON file for the report. null: no file."""

    num_workers: int
    """Processes that read shards. 0: the main process."""

    image_size: int
    """Side of the model's images, in pixels; smaller images are reported."""

    image_field: str | None
    """Field of the image in samples that have several, as in data.image_field. null: the first
    image."""

    def __post_init__(self) -> None:
        require(self.shards is not None, "shards is null; name at least one tar file.")
        self.shards = as_list(self.shards)
        require_at_least(0, num_workers=self.num_workers)
        require_at_least(1, image_size=self.image_size)


MIN_SHORTER_SIDE = 256
"""Side in pixels of the recipe's training images. Smaller downloads would have to be enlarged."""


@dataclass(kw_only=True, slots=True)
class LinksConfig:
    """Settings for downloading lists of links with img2dataset."""

    links: Any
    """CC3M's TSV or YFCC's metadata_*.jsonl.gz: path, glob or brace pattern, or a list of these."""

    output: str
    """Output folder: new, empty, or of an earlier run of this command, which is then resumed."""

    samples_per_shard: int
    """Links per shard; a shard has fewer samples if some of its links are dead."""

    shorter_side: int | None
    """Shorter side to which larger images are scaled down, in pixels. null: no scaling."""

    processes: int
    """Number of img2dataset's processes."""

    threads: int
    """Simultaneous downloads per process."""

    timeout_seconds: int
    """Time limit for one download."""

    retries: int
    """How often a failed download is repeated."""

    min_success_fraction: float
    """Fraction of links that must give an image. Below it the command fails, because the network is
    probably at fault."""

    environment: str | None
    """Virtual environment that contains img2dataset. null: one in the cache, made at first use."""

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
            self.shorter_side is None or self.shorter_side >= MIN_SHORTER_SIDE,
            f"shorter_side is {self.shorter_side}; it must be at least {MIN_SHORTER_SIDE} or null.",
        )
        require(
            0 <= self.min_success_fraction <= 1,
            f"min_success_fraction is {self.min_success_fraction}; it must be in [0, 1].",
        )


@dataclass(kw_only=True, slots=True)
class PackConfig:
    """Settings for packing folders of image files into shards."""

    inputs: Any
    """Folder with image files, searched recursively, or a list of folders."""

    output: str
    """Output folder: new, empty, or of an earlier run of this command, which is then resumed."""

    samples_per_shard: int
    """Image files per shard; a shard has fewer samples if some of them cannot be read."""

    captions: str | None
    """Table of captions: CSV with quotes or TSV without them, both with a header, or JSON lines.
    null: the caption of a.jpg is in a.txt."""

    captions_path_column: str
    """Column of the image paths, relative to their input folder."""

    captions_text_column: str
    """Column of the captions."""

    num_workers: int
    """Processes that read and decode images. 0: the main process does."""

    def __post_init__(self) -> None:
        self.inputs = as_list(self.inputs)
        require(self.inputs != [], "inputs is null; give folders or files of images.")
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)


@dataclass(kw_only=True, slots=True)
class PrepareYfccConfig:
    """Settings for packing the records and images of YFCC100M's OpenAI subset into shards."""

    records: Any
    """Parquet or metadata_*.jsonl.gz files: path, glob or brace pattern, or a list of these."""

    images: str | None
    """Folder of the zip files with the images (data/). null: for parquet, which contains them."""

    output: str
    """Output folder: new, empty, or of an earlier run of this command, which is then resumed."""

    samples_per_shard: int
    """Records per shard; the last shard of each file of records may have fewer."""

    num_workers: int
    """Processes that read and decode images. 0: the main process does."""

    def __post_init__(self) -> None:
        self.records = as_list(self.records)
        require_at_least(1, samples_per_shard=self.samples_per_shard)
        require_at_least(0, num_workers=self.num_workers)


@dataclass(kw_only=True, slots=True)
class PeopleConfig:
    """Settings for selecting more images of people than a uniform draw would."""

    multiplier: float
    """How many times as likely an image of people is to be selected as any other. 1: equally."""

    words: list[str]
    """An image shows people if its caption contains one of these words, whole and in any case."""

    detect_faces: bool
    """A face found in an image also means people. Needs the extra `faces`, and 0.1 s per image."""

    def __post_init__(self) -> None:
        require(
            self.multiplier > 0,
            f"people.multiplier is {self.multiplier}; it must be more than 0. 1 changes nothing.",
        )
        require(
            all(word.strip() for word in self.words),
            "people.words contains an empty word, which would match every caption. Remove it.",
        )


@dataclass(kw_only=True, slots=True)
class SelectConfig:
    """Settings for selecting training and validation samples from several sources."""

    sources: dict[str, Any]
    """Shards by name of the source: path, glob or brace pattern, or a list of these. null: leave
    the source out. An image that is in several sources belongs to the one listed first."""

    weights: dict[str, float]
    """Share of each source in the training samples, relative to the other sources' weights."""

    output: str
    """Output folder for train/, val/ and the report: new, empty, or of an earlier run of this
    command, which is then resumed."""

    samples: int
    """Number of training samples."""

    val_samples: int
    """Number of validation samples. No training sample has the same image file as one of them."""

    val_source: str
    """Source of the validation samples."""

    samples_per_shard: int
    """Samples in each shard; the last one of a set may have fewer."""

    min_side: int
    """Smallest shorter side of a usable image, in pixels."""

    allow_fewer: bool
    """If a source has too few samples, take all of them instead of failing."""

    people: PeopleConfig

    seed: int
    """Seed of the selection and of the order."""

    num_workers: int
    """Processes that read and decode images. 0: the main process does."""

    def __post_init__(self) -> None:
        self._check_sources()
        require_at_least(
            1,
            samples=self.samples,
            samples_per_shard=self.samples_per_shard,
            min_side=self.min_side,
        )
        require_at_least(
            0, val_samples=self.val_samples, seed=self.seed, num_workers=self.num_workers
        )

    def _check_sources(self) -> None:
        require(
            self.sources.keys() == self.weights.keys(),
            f"The sources are {', '.join(self.sources)}, but weights are given for "
            f"{', '.join(self.weights)}. Give each source a weight, as in +sources.NAME=... "
            "+weights.NAME=1. To leave a source out: sources.NAME=null.",
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
