"""Makes the page's cards: kept pictures and their faces, with reconstructions and values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.page.jpeg import Jpeg, Pixels, compress, error_map
from vqgan_train.evaluation.page.metric_table import label, number
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import Evaluation, Floats


class Measurement(NamedTuple):
    """One metric of one picture or face."""

    label: str
    values: list[str]
    """One per checkpoint."""

    best: int | None
    """Index of the best value; None if it is shared, the only one, or a value is undefined."""


class Card(NamedTuple):
    """One kept picture, with reconstructions and error maps by checkpoint."""

    row: int
    """Row in the image table."""

    faces: int
    original: Jpeg
    reconstructions: Mapping[str, Jpeg]
    errors: Mapping[str, Jpeg]
    measurements: list[Measurement]
    ranks: Mapping[str, int]
    """Rank, from 0, among the pictures kept for the same reason, by reason."""

    def jpegs(self) -> Iterator[Jpeg]:
        """Yield all its pictures."""
        yield self.original
        yield from self.reconstructions.values()
        yield from self.errors.values()


def draw_cards(evaluation: Evaluation, quality: int) -> list[Card]:
    """Compress all kept pictures at a JPEG quality."""
    ranks = _ranks(evaluation)
    values = [checkpoint.values for checkpoint in evaluation.checkpoints]
    cards = []
    for kept in evaluation.pictures:
        versions = kept.reconstructions.items()
        cards.append(
            Card(
                row=kept.row,
                faces=int((evaluation.images.face_images == kept.row).sum()),
                original=compress(kept.original, quality),
                reconstructions={name: compress(pixels, quality) for name, pixels in versions},
                errors={name: error_map(kept.original, pixels) for name, pixels in versions},
                measurements=_measurements(values, kept.row),
                ranks=ranks[kept.row],
            )
        )
    return cards


def _measurements(values: Sequence[Mapping[str, Floats]], index: int) -> list[Measurement]:
    """Return the measurements of one image or face; `values` has those of all, per checkpoint."""
    measurements = []
    for metric in values[0]:
        numbers = [float(of_checkpoint[metric][index]) for of_checkpoint in values]
        texts = [number(metric, value) for value in numbers]
        measurements.append(Measurement(label(metric), texts, best_of(metric, numbers)))
    return measurements


def best_of(metric: str, values: list[float]) -> int | None:
    """Return the index of the best value; None if it is shared, the only one, or any is NaN."""
    if len(values) < 2 or any(math.isnan(value) for value in values):
        return None
    best = max(values) if METRICS[metric].higher_is_better else min(values)
    return values.index(best) if values.count(best) == 1 else None


def _ranks(evaluation: Evaluation) -> dict[int, dict[str, int]]:
    """Return each row's ranks by reason; rank 0 is the strongest example of the reason."""
    ranks: dict[int, dict[str, int]] = {kept.row: {} for kept in evaluation.pictures}
    by_reason: dict[str, list[int]] = {}
    for kept in evaluation.pictures:
        for reason in kept.reasons:
            by_reason.setdefault(reason, []).append(kept.row)
    for reason, rows in by_reason.items():
        for rank, row in enumerate(sorted(rows, key=lambda r: _sort_key(evaluation, reason, r))):
            ranks[row][reason] = rank
    return ranks


def _sort_key(evaluation: Evaluation, reason: str, row: int) -> float:
    """Return a key that sorts a reason's strongest example first; the row for samples and faces."""
    kind, _, metric = reason.partition(" ")
    if metric not in evaluation.checkpoints[-1].values:
        return row
    last = evaluation.checkpoints[-1].values[metric][row]
    before = evaluation.checkpoints[0].values[metric][row] if kind in ("gained", "lost") else 0.0
    with np.errstate(invalid="ignore"):
        good = float(last - before) * (1 if METRICS[metric].higher_is_better else -1)
    good = 0.0 if math.isnan(good) else good
    return -good if kind in ("best", "gained") else good


MAX_FACES = 24
"""Maximum number of faces on the page; the largest are shown."""

MARGIN = 0.25
"""Margin as a fraction of the box's side, because the detector's box ends at the eyebrows."""

FACE_QUALITY = 95
"""JPEG quality of faces; they have few pixels, so the best quality is affordable."""


class Face(NamedTuple):
    """One face of a kept picture, with reconstructions by checkpoint."""

    row: int
    """Row of its picture."""

    side: int
    """Longer side of the detector's box, in pixels."""

    original: Jpeg
    reconstructions: Mapping[str, Jpeg]
    measurements: list[Measurement]


def draw_faces(evaluation: Evaluation) -> list[Face]:
    """Cut the `MAX_FACES` largest faces out of the kept pictures."""
    pictures = {kept.row: kept for kept in evaluation.pictures}
    table = evaluation.images
    boxes = table.face_boxes.reshape(-1, 4)
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    faces = [face for face, row in enumerate(table.face_images.tolist()) if row in pictures]
    faces.sort(key=lambda face: (-sides[face], face))
    shown = []
    for face in faces[:MAX_FACES]:
        kept, box = pictures[int(table.face_images[face])], table.face_boxes[face]
        shown.append(
            Face(
                row=kept.row,
                side=int(sides[face]),
                original=compress(_cut(kept.original, box), FACE_QUALITY),
                reconstructions={
                    name: compress(_cut(pixels, box), FACE_QUALITY)
                    for name, pixels in kept.reconstructions.items()
                },
                measurements=_measurements([c.face_values for c in evaluation.checkpoints], face),
            )
        )
    return shown


def _cut(pixels: Pixels, box: NDArray[np.int64]) -> Pixels:
    """Cut a square around the middle of a box, shifted and shrunk to fit into the picture."""
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
