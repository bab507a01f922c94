"""Computes the means of groups and the differences of checkpoints from the values of images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.bootstrap import summarise, summarise_by_image
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    Difference,
    Floats,
    ImageTable,
    Summary,
)

Values = Mapping[str, Floats]
"""Values of images or faces by metric."""


class Measured(NamedTuple):
    """Measured values of one checkpoint."""

    name: str
    values: Values
    """(N,) values of images."""

    face_values: Values
    """(F,) values of faces."""


SEED = 0
"""Seed of the bootstrap, so that the same values give the same intervals."""


class _Group(NamedTuple):
    name: str
    rows: NDArray[np.bool_]
    """Membership of images, or of faces."""

    images: NDArray[np.int64] | None
    """(F,) image of each face; None if the rows are images."""

    def summaries(self, columns: Floats, resamples: int) -> list[Summary]:
        chosen = columns[self.rows]
        if self.images is None:
            return summarise(chosen, resamples=resamples, seed=SEED)
        return summarise_by_image(chosen, self.images, resamples=resamples, seed=SEED)


def summaries_of(
    measured: Measured, images: ImageTable, resamples: int
) -> dict[str, dict[str, Summary]]:
    """Compute means and intervals by group, then by metric."""
    found = {}
    for group in _groups(images, has_faces=bool(measured.face_values)):
        values = _values(measured, group)
        summaries = group.summaries(_columns(values, len(group.rows)), resamples)
        found[group.name] = dict(zip(values, summaries, strict=True))
    return found


def differences_of(
    before: Measured, after: Measured, images: ImageTable, resamples: int
) -> list[Difference]:
    """Compute the changes per image and face from one checkpoint to another."""
    found = []
    for group in _groups(images, has_faces=bool(after.face_values)):
        ours, theirs = _values(after, group), _values(before, group)
        with np.errstate(invalid="ignore"):  # of two infinite PSNRs: undefined
            changes = {name: ours[name] - theirs[name] for name in ours}
        summaries = group.summaries(_columns(changes, len(group.rows)), resamples)
        for (metric, change), summary in zip(changes.items(), summaries, strict=True):
            found.append(
                Difference(
                    before=before.name,
                    after=after.name,
                    group=group.name,
                    metric=metric,
                    change=summary,
                    share_better=_share_better(metric, change[group.rows]),
                )
            )
    return found


def _share_better(metric: str, changes: Floats) -> float:
    """Return the share of improved pairs; pairs of two infinite PSNRs are not counted."""
    compared = changes[~np.isnan(changes)]
    better = compared > 0 if METRICS[metric].higher_is_better else compared < 0
    return float(better.mean()) if len(better) else float("nan")


def _groups(images: ImageTable, *, has_faces: bool) -> list[_Group]:
    groups = [_Group(ALL, np.ones(len(images.keys), dtype=np.bool_), None)]
    groups += [_Group(name, rows, None) for name, rows in images.slices.items()]
    if has_faces:
        faces = images.face_images
        groups.append(_Group(FACE_BOXES, np.ones(len(faces), dtype=np.bool_), faces))
    return groups


def _values(measured: Measured, group: _Group) -> Values:
    return measured.values if group.images is None else measured.face_values


def _columns(values: Values, rows: int) -> Floats:
    return np.stack(list(values.values()), axis=1) if values else np.zeros((rows, 0))
