"""What an evaluation found: plain values and numpy arrays, from which tables and pages are made.

Letters: N images that could be read, F faces in them, K codes, H by W pixels.

`Evaluation` is the whole. Every checkpoint saw the same images in the same order, so row i of one
checkpoint's values and row i of another's are of one image. `folder` writes it, `reading` reads it
back; `names` says how to print a metric.
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
"""The slice of the images in which a face was found; there only if faces were looked for."""

FACE_BOXES = "face_boxes"
"""The group of faces: each box by itself, in intervals drawn image by image."""

COMPARABLE_FROM = 2048
"""Images that an FID needs: its covariance of 2,048 features has no full rank with fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Which images were seen, and how."""

    given: tuple[str, ...]
    """Shards or folder, as they were set."""

    fingerprint: str
    """Changes when the images do."""

    num_images: int
    """N."""

    unreadable: tuple[str, ...]
    """Images that could not be read, by name, with the reason; they count nowhere."""

    dead_shards: tuple[str, ...]
    """Shards of which nothing could be read, by name, with the reason."""

    damaged_shards: tuple[str, ...]
    """Shards that have lost samples, by name, with the reason; the others of them count."""

    resize: int
    """Length to which the shorter side was scaled, in pixels."""

    image_size: int
    """Side of the centre crop, of reference and reconstruction alike, in pixels."""

    pixel_range: str
    """What the model was given: signed, [-1, 1], or unit, [0, 1]."""

    faces_looked_for: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """The images, row by row in the order of the dataset."""

    numbers: NDArray[np.int64]
    """(N,) place among all, unreadable ones included."""

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    sources: tuple[str, ...]
    """The shard's name, or the file's in its folder."""

    widths: NDArray[np.int64]
    """(N,) before scaling and cropping, in pixels."""

    heights: NDArray[np.int64]
    face_images: NDArray[np.int64]
    """(F,) row of the image in which each face is, ascending."""

    face_boxes: NDArray[np.int64]
    """(F, 4) left, top, right, bottom in the crop's pixels, right and bottom excluded."""

    slices: Mapping[str, NDArray[np.bool_]]
    """(N,) whether an image belongs, by the slice's name; WITH_FACE is one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistance:
    """A distance of two sets of images: rFID."""

    value: float
    evaluator: str
    """Library, network and weights: numbers of two evaluators do not compare."""

    count: int
    """Images of each set; to be printed with the value."""

    @property
    def comparable(self) -> bool:
        """Whether there are enough images to set it beside numbers of others."""
        return self.count >= COMPARABLE_FROM


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    """NaN, as `high`, where no interval is known: of fewer than two images with finite values."""

    high: float
    count: int
    """Values that the mean is of; 0: the mean is NaN."""

    num_infinite: int
    """Values left out because they are infinite: PSNR of identical images. If all are, the mean is
    infinite too."""

    @property
    def has_interval(self) -> bool:
        """Whether it is known how sure the mean is."""
        return not (math.isnan(self.low) or math.isnan(self.high))


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointResult:
    """What one checkpoint made of the images."""

    name: str
    """Short and unlike the others': the column's head."""

    source: str
    """Path or address, as it was set."""

    weights_sha256: str
    values: Mapping[str, Floats]
    """(N,) by keys of IMAGE_METRICS, those measured; NaN where undefined."""

    face_values: Mapping[str, Floats]
    """(F,) by keys of FACE_METRICS, those measured; NaN where undefined."""

    codebook: CodebookStatistics
    rfid: Mapping[str, SetDistance]
    """By group, ALL and slices; empty if it was left out."""

    summaries: Mapping[str, Mapping[str, Summary]]
    """By group, then by metric: ALL, each slice, and FACE_BOXES if faces were looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The mean of `after - before` over the same images, with its 95 % bootstrap interval."""

    before: str
    after: str
    """Names of the checkpoints."""

    group: str
    metric: str
    change: Summary
    share_better: float
    """Fraction of the pairs in which `after` is strictly better."""

    @property
    def is_certain(self) -> bool:
        """Whether there is an interval, and it leaves out 0."""
        return self.change.low > 0 or self.change.high < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPicture:
    """An image to look at, and what each checkpoint made of it."""

    row: int
    """In the image table."""

    reasons: tuple[str, ...]
    """Why it was kept: `fixed`, `face`, `worst METRIC`, `best METRIC`, `gained METRIC`,
    `lost METRIC`. Best and worst are by the last checkpoint, gained and lost by last and first."""

    original: NDArray[np.uint8]
    """(H, W, 3), the crop that the models saw."""

    reconstructions: Mapping[str, NDArray[np.uint8]]
    """(H, W, 3) by the checkpoint's name."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What could not be measured."""

    metric: str
    """Key of METRICS; `faces`; `slice NAME`; or `picture KEY`."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that one evaluation found."""

    dataset: DatasetFacts
    images: ImageTable
    checkpoints: tuple[CheckpointResult, ...]
    """In the order given; the first is what the others are compared with."""

    evaluators: Mapping[str, str]
    """Network and weights of those image metrics that have some, by the metric's name."""

    differences: tuple[Difference, ...]
    left_out: tuple[LeftOut, ...]
    pictures: tuple[KeptPicture, ...]

    def group_sizes(self) -> dict[str, int]:
        """Images of ALL and of each slice, faces of FACE_BOXES, in the order of tables."""
        sizes = {ALL: self.dataset.num_images}
        sizes |= {name: int(rows.sum()) for name, rows in self.images.slices.items()}
        if self.dataset.faces_looked_for:
            sizes[FACE_BOXES] = len(self.images.face_images)
        return sizes
