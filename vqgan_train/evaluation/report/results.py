"""Results of an evaluation: plain values and numpy arrays, from which tables and pages are made.

Letters: N readable images, F faces in them, K codes, H by W pixels.

`Evaluation` holds all results. All checkpoints are measured on the same images in the same order,
so row i of the values of two checkpoints belongs to the same image.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqgan_train.metrics.codebook import CodebookStatistics

Floats = NDArray[np.float64]

ALL = "all"
"""The group of all images."""

WITH_FACE = "with_face"
"""The slice of images with a detected face; exists only if faces are detected."""

FACE_BOXES = "face_boxes"
"""The group of single faces; its intervals are resampled image by image."""

MIN_COMPARABLE_IMAGES = 2048
"""Minimum images for an FID: with fewer, the covariance of 2,048 features lacks full rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """The images of an evaluation, and how they were read."""

    given: tuple[str, ...]
    """Configured shards or folder."""

    fingerprint: str
    """Hash of the listing of the images, such as names and sizes; pixels are not read."""

    num_images: int
    """N."""

    unreadable: tuple[str, ...]
    """Unreadable images, name and reason each; they enter no result."""

    dead_shards: tuple[str, ...]
    """Shards without any readable sample, name and reason each."""

    damaged_shards: tuple[str, ...]
    """Shards that have lost samples, name and reason each; their other samples are measured."""

    resize: int
    """Length of the shorter side after scaling, in pixels."""

    image_size: int
    """Side of the centre crop in pixels, of references and reconstructions."""

    pixel_range: str
    """Range of the models' input: `signed`, [-1, 1], or `unit`, [0, 1]."""

    faces_looked_for: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """The readable images, in the order of the dataset."""

    numbers: NDArray[np.int64]
    """(N,) position in the dataset, unreadable images included."""

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    sources: tuple[str, ...]
    """Name of the shard, or of the file in the folder."""

    widths: NDArray[np.int64]
    """(N,) before scaling and cropping, in pixels."""

    heights: NDArray[np.int64]
    face_images: NDArray[np.int64]
    """(F,) row of each face's image, ascending."""

    face_boxes: NDArray[np.int64]
    """(F, 4) left, top, right, bottom in pixels of the crop; right and bottom are exclusive."""

    slices: Mapping[str, NDArray[np.bool_]]
    """(N,) membership by slice; includes WITH_FACE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistance:
    """An rFID: the Frechet distance between references and reconstructions."""

    value: float
    evaluator: str
    """Library, network and weights; distances by different evaluators are not comparable."""

    count: int
    """Number of images in each set; always printed with the value."""

    @property
    def comparable(self) -> bool:
        """Whether there are enough images for a comparison with published numbers."""
        return self.count >= MIN_COMPARABLE_IMAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    """NaN, like `high`, if fewer than ten images have a finite value, or nearly all are equal."""

    high: float
    count: int
    """Number of averaged values. If 0, the mean is the infinity that all values equal, else NaN."""

    num_infinite: int
    """Number of infinite values (PSNR of identical images), which are not averaged."""

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known."""
        return not (math.isnan(self.low) or math.isnan(self.high))


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointResult:
    """Results of one checkpoint."""

    name: str
    """Short unique name: the heading of its column."""

    source: str
    """Configured path or address."""

    weights_sha256: str
    values: Mapping[str, Floats]
    """(N,) by metric, for the measured keys of IMAGE_METRICS; NaN where undefined."""

    face_values: Mapping[str, Floats]
    """(F,) by metric, for the measured keys of FACE_METRICS; NaN where undefined."""

    codebook: CodebookStatistics
    rfid: Mapping[str, SetDistance]
    """By group: ALL and each slice; empty if rFID is not measured."""

    summaries: Mapping[str, Mapping[str, Summary]]
    """By group (ALL, each slice, and FACE_BOXES if faces are detected), then by metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean of `after - before` over the same images, with its 95 % bootstrap interval."""

    before: str
    """Name of the first checkpoint."""

    after: str
    """Name of the later checkpoint."""

    group: str
    metric: str
    change: Summary
    share_better: float
    """Fraction of the pairs in which `after` is strictly better."""

    @property
    def is_certain(self) -> bool:
        """Whether the interval is known and excludes 0."""
        return self.change.low > 0 or self.change.high < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPicture:
    """An image kept to look at, with its reconstruction by each checkpoint."""

    row: int
    """Row in the image table."""

    reasons: tuple[str, ...]
    """`fixed` (a sample of all), `face`, `worst METRIC`, `best METRIC`, `gained METRIC`,
    `lost METRIC`. Best and worst are of the last checkpoint, gained and lost from first to last."""

    original: NDArray[np.uint8]
    """(H, W, 3) crop that the models encoded."""

    reconstructions: Mapping[str, NDArray[np.uint8]]
    """(H, W, 3) by name of the checkpoint."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A metric, slice or picture that is missing, and why."""

    metric: str
    """A key of METRICS, `faces`, `slice NAME` or `picture KEY`."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All results of an evaluation."""

    dataset: DatasetFacts
    images: ImageTable
    checkpoints: tuple[CheckpointResult, ...]
    """In the configured order; the others are compared with the first."""

    evaluators: Mapping[str, str]
    """Network and weights by image metric, for those that have a network."""

    differences: tuple[Difference, ...]
    left_out: tuple[LeftOut, ...]
    pictures: tuple[KeptPicture, ...]

    def group_sizes(self) -> dict[str, int]:
        """Count the images of ALL and of each slice, and the faces of FACE_BOXES."""
        sizes = {ALL: self.dataset.num_images}
        sizes |= {name: int(rows.sum()) for name, rows in self.images.slices.items()}
        if self.dataset.faces_looked_for:
            sizes[FACE_BOXES] = len(self.images.face_images)
        return sizes
