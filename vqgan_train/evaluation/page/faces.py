"""Faces of the kept pictures, cut out and enlarged."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.page.cards import Measurement, best_of
from vqgan_train.evaluation.page.jpeg import Jpeg, Pixels, compress
from vqgan_train.evaluation.page.text import label, number
from vqgan_train.evaluation.results import Evaluation

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
