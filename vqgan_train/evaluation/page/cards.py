"""One card a kept picture: what each checkpoint made of it, where it erred, and how much."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.page.jpeg import Jpeg, Pixels, compress, error_map
from vqgan_train.evaluation.page.metric_table import label, number
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import Evaluation, KeptPicture


class Measurement(NamedTuple):
    """One metric of one picture."""

    label: str
    values: list[str]
    """By checkpoint."""

    best: int | None
    """Place of the best value; None where two are equal, or there is one."""


class Card(NamedTuple):
    """One picture."""

    row: int
    key: str
    caption: str
    source: str
    size: str
    faces: int
    original: Jpeg
    reconstructions: Mapping[str, Jpeg]
    errors: Mapping[str, Jpeg]
    measurements: list[Measurement]
    ranks: Mapping[str, int]
    """Its place among those kept for the same reason, by the reason."""

    def jpegs(self) -> Iterator[Jpeg]:
        """All that it holds."""
        yield self.original
        yield from self.reconstructions.values()
        yield from self.errors.values()


def draw_cards(found: Evaluation, quality: int) -> list[Card]:
    """Compress all kept pictures at a JPEG quality."""
    ranks = _ranks(found)
    return [_card(found, kept, ranks[kept.row], quality) for kept in found.pictures]


def _card(found: Evaluation, kept: KeptPicture, ranks: Mapping[str, int], quality: int) -> Card:
    images, row = found.images, kept.row
    made = kept.reconstructions
    return Card(
        row=row,
        key=images.keys[row],
        caption=images.captions[row],
        source=images.sources[row],
        size=f"{images.widths[row]} \N{MULTIPLICATION SIGN} {images.heights[row]}",
        faces=int((images.face_images == row).sum()),
        original=compress(kept.original, quality),
        reconstructions={name: compress(pixels, quality) for name, pixels in made.items()},
        errors={name: error_map(kept.original, pixels) for name, pixels in made.items()},
        measurements=[_measurement(found, metric, row) for metric in found.checkpoints[0].values],
        ranks=ranks,
    )


def _measurement(found: Evaluation, metric: str, row: int) -> Measurement:
    values = [float(checkpoint.values[metric][row]) for checkpoint in found.checkpoints]
    return Measurement(
        label(metric), [number(metric, value) for value in values], best_of(metric, values)
    )


def best_of(metric: str, values: list[float]) -> int | None:
    """Place of the best value; None where it is shared, or there is nothing to compare."""
    if len(values) < 2 or any(math.isnan(value) for value in values):
        return None
    best = max(values) if METRICS[metric].higher_is_better else min(values)
    return values.index(best) if values.count(best) == 1 else None


def _ranks(found: Evaluation) -> dict[int, dict[str, int]]:
    """By row and reason the place among those kept for it; the most telling comes first."""
    ranks: dict[int, dict[str, int]] = {kept.row: {} for kept in found.pictures}
    by_reason: dict[str, list[int]] = {}
    for kept in found.pictures:
        for reason in kept.reasons:
            by_reason.setdefault(reason, []).append(kept.row)
    for reason, rows in by_reason.items():
        for place, row in enumerate(sorted(rows, key=lambda r: _strength(found, reason, r))):
            ranks[row][reason] = place
    return ranks


def _strength(found: Evaluation, reason: str, row: int) -> float:
    """Less the more a picture shows what it was kept for; its row where that has no degree."""
    kind, _, metric = reason.partition(" ")
    if metric not in found.checkpoints[-1].values:
        return row
    last = found.checkpoints[-1].values[metric][row]
    before = found.checkpoints[0].values[metric][row] if kind in ("gained", "lost") else 0.0
    with np.errstate(invalid="ignore"):
        good = float(last - before) * (1 if METRICS[metric].higher_is_better else -1)
    good = 0.0 if math.isnan(good) else good
    return -good if kind in ("best", "gained") else good


MOST_FACES = 24
"""Faces that are shown, the largest first."""

MARGIN = 0.25
"""Around the box, of its sides: a detector's box ends at the eyebrows."""

FACE_QUALITY = 95
"""A face is few pixels, so it may have the best."""


class Face(NamedTuple):
    """One face."""

    row: int
    """Of its picture."""

    key: str
    side: int
    """Longer side of the detector's box, in pixels."""

    original: Jpeg
    reconstructions: Mapping[str, Jpeg]
    measurements: list[Measurement]


class Faces(NamedTuple):
    """Those that are shown."""

    shown: list[Face]
    in_pictures: int
    """Faces in kept pictures, those not shown included."""


def draw_faces(found: Evaluation) -> Faces:
    """Cut the largest faces out of the pictures that were kept."""
    pictures = {kept.row: kept for kept in found.pictures}
    table = found.images
    sides = _sides(found)
    places = [place for place, row in enumerate(table.face_images.tolist()) if row in pictures]
    places.sort(key=lambda place: (-sides[place], place))
    shown = []
    for place in places[:MOST_FACES]:
        kept = pictures[int(table.face_images[place])]
        box = table.face_boxes[place]
        shown.append(
            Face(
                row=kept.row,
                key=table.keys[kept.row],
                side=int(sides[place]),
                original=compress(_cut(kept.original, box), FACE_QUALITY),
                reconstructions={
                    name: compress(_cut(pixels, box), FACE_QUALITY)
                    for name, pixels in kept.reconstructions.items()
                },
                measurements=_measurements(found, place),
            )
        )
    return Faces(shown, len(places))


def _sides(found: Evaluation) -> NDArray[np.int64]:
    boxes = found.images.face_boxes.reshape(-1, 4)
    return np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _measurements(found: Evaluation, place: int) -> list[Measurement]:
    measurements = []
    for metric in found.checkpoints[0].face_values:
        values = [float(checkpoint.face_values[metric][place]) for checkpoint in found.checkpoints]
        texts = [number(metric, value) for value in values]
        measurements.append(Measurement(label(metric), texts, best_of(metric, values)))
    return measurements


def _cut(pixels: Pixels, box: NDArray[np.int64]) -> Pixels:
    """A square around the box's middle, as far as the picture goes."""
    left, top, right, bottom = (int(edge) for edge in box)
    side = round(max(right - left, bottom - top) * (1 + 2 * MARGIN))
    side = min(side, *pixels.shape[:2])
    x, y = (
        min(max((low + high - side) // 2, 0), length - side)
        for low, high, length in (
            (left, right, pixels.shape[1]),
            (top, bottom, pixels.shape[0]),
        )
    )
    return pixels[y : y + side, x : x + side]
