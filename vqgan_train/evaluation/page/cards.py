"""One card a kept picture: what each checkpoint made of it, where it erred, and how much."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from vqgan_train.evaluation.names import METRICS
from vqgan_train.evaluation.page.jpeg import Jpeg, compress, error_map
from vqgan_train.evaluation.page.text import label, number
from vqgan_train.evaluation.results import Evaluation, KeptPicture


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
