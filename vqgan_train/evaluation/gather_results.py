"""Gathers the results of all processes in the first one, in the order of the dataset."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqgan_train.evaluation.image_batches import ImageRow
from vqgan_train.evaluation.measure_images import GrowingValues, LocalResults
from vqgan_train.evaluation.report.results import WITH_FACE, ImageTable
from vqgan_train.evaluation.report.summaries import Measured
from vqgan_train.images.bad_images import BadImages
from vqgan_train.metrics.frechet import FeatureSums
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import all_reduce_sum, gather_to_first


class GlobalResults(NamedTuple):
    """Results on the images of all processes."""

    images: ImageTable
    unreadable: tuple[str, ...]
    measured: list[Measured]
    """One per checkpoint."""

    usage: list[Tensor]
    """Token counts, (codebook_size,) int64, one per checkpoint."""

    reference: dict[str, FeatureSums]
    """Feature sums of the references by group."""

    sums: list[dict[str, FeatureSums]]
    """Feature sums of the reconstructions by group, one per checkpoint."""

    without_column: tuple[str, ...]
    """Slices whose column no image has."""


class _Report(NamedTuple):
    """The part of a process's results that is concatenated; the rest is summed."""

    rows: list[ImageRow]
    bad: list[tuple[int, str]]
    values: list[GrowingValues]
    face_values: list[GrowingValues]


def gather_results(
    local: LocalResults,
    names: Sequence[str],
    slices: Sequence[str],
    process: ProcessRank,
    *,
    has_faces: bool,
) -> GlobalResults | None:
    """Gather the results of all processes; every process must call this.

    Args:
        local: results of this process; its token counts and feature sums become those of all.
        names: names of the checkpoints.
        slices: names of the slices.
        process: rank and number of processes.
        has_faces: whether faces were detected.

    Returns:
        All results in the first process, None in the others.

    Raises:
        UserError: no image could be read.
    """
    for checkpoint in local.checkpoints:
        all_reduce_sum(checkpoint.usage, process)
    for sums in (local.reference, *(checkpoint.sums for checkpoint in local.checkpoints)):
        for group in sums.values():
            _add_sums(group, process)
    reports = gather_to_first(_report(local), process)
    if not reports:
        return None
    rows = [row for report in reports for row in report.rows]
    unreadable = tuple(name for _, name in sorted(entry for r in reports for entry in r.bad))
    if not rows:
        raise UserError(
            f"None of the {len(unreadable)} images could be read, for example {unreadable[0]}."
        )
    numbers = np.array([row.number for row in rows])
    order = np.argsort(numbers)
    face_order = np.argsort(np.repeat(numbers, _num_faces(rows)), kind="stable")
    return GlobalResults(
        images=_image_table([rows[index] for index in order], slices, has_faces=has_faces),
        unreadable=unreadable,
        measured=[
            Measured(
                name,
                _concatenate([report.values[index] for report in reports], order),
                _concatenate([report.face_values[index] for report in reports], face_order),
            )
            for index, name in enumerate(names)
        ],
        usage=[checkpoint.usage for checkpoint in local.checkpoints],
        reference=local.reference,
        sums=[checkpoint.sums for checkpoint in local.checkpoints],
        without_column=tuple(
            name
            for index, name in enumerate(slices)
            if all(row.slices[index] is None for row in rows)
        ),
    )


def require_few_bad_together(bad_images: BadImages, process: ProcessRank) -> None:
    """Stop all processes if too many of all images are unreadable.

    Each process alone may be below the limit because the limit allows for at least 100 images.

    Args:
        bad_images: counts of this process; they become those of all processes.
        process: rank and number of processes.

    Raises:
        UserError: too many images are unreadable.
    """
    counts = torch.tensor([bad_images.seen, bad_images.bad])
    all_reduce_sum(counts, process)
    bad_images.seen, bad_images.bad = counts.tolist()
    bad_images.require_few("They are named above.")


def _report(local: LocalResults) -> _Report:
    return _Report(
        rows=local.rows,
        bad=local.bad,
        values=[checkpoint.values for checkpoint in local.checkpoints],
        face_values=[checkpoint.face_values for checkpoint in local.checkpoints],
    )


def _add_sums(sums: FeatureSums, process: ProcessRank) -> None:
    count = torch.tensor(sums.count)
    for numbers in (count, sums.sums, sums.products):
        all_reduce_sum(numbers, process)
    sums.count = int(count)


def _concatenate(
    parts: Sequence[GrowingValues], order: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _num_faces(rows: Sequence[ImageRow]) -> NDArray[np.int64]:
    return np.array([len(row.boxes) for row in rows], dtype=np.int64)


def _image_table(rows: Sequence[ImageRow], slices: Sequence[str], *, has_faces: bool) -> ImageTable:
    num_faces = _num_faces(rows)
    members = {
        name: np.array([bool(row.slices[index]) for row in rows], dtype=np.bool_)
        for index, name in enumerate(slices)
    }
    if has_faces:
        members[WITH_FACE] = num_faces > 0
    return ImageTable(
        numbers=np.array([row.number for row in rows], dtype=np.int64),
        keys=tuple(row.key for row in rows),
        captions=tuple(row.caption for row in rows),
        sources=tuple(row.source for row in rows),
        widths=np.array([row.width for row in rows], dtype=np.int64),
        heights=np.array([row.height for row in rows], dtype=np.int64),
        face_images=np.repeat(np.arange(len(rows)), num_faces),
        face_boxes=np.concatenate([row.boxes for row in rows]),
        slices=members,
    )
