"""Computes the means of groups and the differences of checkpoints from the values of images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.bootstrap import summarise
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    CheckpointResult,
    Difference,
    Floats,
    ImageTable,
    Summary,
)

Values = Mapping[str, Floats]
"""Values of images or faces by metric."""


class _Group(NamedTuple):
    """Images (R of N), or faces (R of F), that are averaged together."""

    name: str
    values: Values
    """By metric, (N,) or (F,)."""

    rows: NDArray[np.int64]
    """(R,) indices of the members in the values."""

    images: NDArray[np.int64]
    """(R,) image of each member."""

    def summaries(self, resamples: int) -> dict[str, Summary]:
        """Compute means and intervals by metric."""
        columns = np.zeros((len(self.rows), len(self.values)))
        for column, values in enumerate(self.values.values()):
            columns[:, column] = values[self.rows]
        summaries = summarise(columns, self.images, resamples=resamples)
        return dict(zip(self.values, summaries, strict=True))


def summaries_of(
    values: Values, face_values: Values, images: ImageTable, resamples: int
) -> dict[str, dict[str, Summary]]:
    """Compute means and intervals by group, then by metric."""
    groups = _groups(values, face_values, images)
    return {group.name: group.summaries(resamples) for group in groups}


def differences_of(
    before: CheckpointResult, after: CheckpointResult, images: ImageTable, resamples: int
) -> list[Difference]:
    """Compute the changes per image and face from one checkpoint to another."""
    with np.errstate(invalid="ignore"):  # the change between two infinite PSNRs is NaN
        changes, face_changes = (
            {metric: new[metric] - old[metric] for metric in new}
            for new, old in (
                (after.values, before.values),
                (after.face_values, before.face_values),
            )
        )
    return [
        Difference(
            before=before.name,
            after=after.name,
            group=group.name,
            metric=metric,
            change=summary,
            share_better=_share_better(metric, group.values[metric][group.rows]),
        )
        for group in _groups(changes, face_changes, images)
        for metric, summary in group.summaries(resamples).items()
    ]


def _share_better(metric: str, changes: Floats) -> float:
    """Return the fraction of the changes that are improvements, leaving out NaN (inf - inf)."""
    compared = changes[~np.isnan(changes)]
    better = compared > 0 if METRICS[metric].higher_is_better else compared < 0
    return float(better.mean()) if len(better) else float("nan")


def _groups(values: Values, face_values: Values, images: ImageTable) -> list[_Group]:
    members = {ALL: np.arange(len(images.keys))}
    members |= {name: np.flatnonzero(rows) for name, rows in images.slices.items()}
    groups = [_Group(name, values, rows, rows) for name, rows in members.items()]
    if face_values:
        faces = images.face_images
        groups.append(_Group(FACE_BOXES, face_values, np.arange(len(faces)), faces))
    return groups
