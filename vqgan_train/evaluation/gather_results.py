"""What the processes found, brought together in the order of the images."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vqgan_train.evaluation.image_batches import Row
from vqgan_train.evaluation.measure_images import Instruments, Swept
from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS
from vqgan_train.evaluation.report.results import WITH_FACE, ImageTable
from vqgan_train.evaluation.report.summaries import Measured
from vqgan_train.images.bad_images import BadImages
from vqgan_train.metrics.frechet import FeatureSums
from vqgan_train.system.errors import TokenError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import all_reduce_sum, gather_to_first


class Merged(NamedTuple):
    """What all processes found."""

    images: ImageTable
    unreadable: tuple[str, ...]
    measured: list[Measured]
    """Of each checkpoint."""

    usage: list[NDArray[np.int64]]
    reference: dict[str, FeatureSums]
    sums: list[dict[str, FeatureSums]]
    """Of each checkpoint, by group."""

    without_column: tuple[str, ...]
    """Slices whose column no image has."""


class _Found(NamedTuple):
    """What a process sends to the first one: all but sums, which are added."""

    rows: list[Row]
    bad: list[tuple[int, str]]
    values: list[dict[str, NDArray[np.float64]]]
    face_values: list[dict[str, NDArray[np.float64]]]


def merge(
    swept: Swept,
    names: Sequence[str],
    slices: Sequence[str],
    instruments: Instruments,
    process: ProcessRank,
) -> Merged | None:
    """Add up what the processes found; every one of them has to call it.

    Args:
        swept: what this process found.
        names: of the checkpoints.
        slices: their names.
        instruments: that measured.
        process: of this process.

    Returns:
        The whole in the first process, None in the others.

    Raises:
        TokenError: no image could be read.
    """
    usage = [torch.from_numpy(own.usage) for own in swept.checkpoints]
    for counts in usage:
        all_reduce_sum(counts, process)
    for sums in (swept.reference, *(own.sums for own in swept.checkpoints)):
        for group in sums.values():
            _add_sums(group, process)
    face_names = instruments.faces.names if instruments.faces else ()
    parts = gather_to_first(_to_send(swept, list(instruments.images), face_names), process)
    if not parts:
        return None
    images, order, face_order = _ordered(parts, slices, has_faces=instruments.faces is not None)
    return Merged(
        images=images,
        unreadable=_unreadable(parts),
        measured=[
            Measured(
                name,
                _joined([part.values[place] for part in parts], order),
                _joined([part.face_values[place] for part in parts], face_order),
            )
            for place, name in enumerate(names)
        ],
        usage=[counts.numpy() for counts in usage],
        reference=swept.reference,
        sums=[own.sums for own in swept.checkpoints],
        without_column=tuple(
            name
            for place, name in enumerate(slices)
            if all(row.slices[place] is None for part in parts for row in part.rows)
        ),
    )


def require_few_bad_together(bad_images: BadImages, process: ProcessRank) -> None:
    """Stop all processes alike if too many images are bad, though too few of each one for it.

    Args:
        bad_images: counted by this process.
        process: of this process.

    Raises:
        TokenError: there are too many.
    """
    counts = torch.tensor([bad_images.seen, bad_images.bad])
    all_reduce_sum(counts, process)
    bad_images.seen, bad_images.bad = counts.tolist()
    bad_images.require_few("They are named above.")


def _ordered(
    parts: Sequence[_Found], slices: Sequence[str], *, has_faces: bool
) -> tuple[ImageTable, NDArray[np.int64], NDArray[np.int64]]:
    """The table in the order of the dataset, and how to bring rows and faces into that order."""
    rows = [row for part in parts for row in part.rows]
    if not rows:
        bad = _unreadable(parts)
        raise TokenError(f"None of the {len(bad)} images could be read, for example {bad[0]}.")
    numbers = np.array([row.number for row in rows])
    order = np.argsort(numbers)
    face_order = np.argsort(np.repeat(numbers, _num_faces(rows)), kind="stable")
    table = _image_table([rows[place] for place in order], slices, has_faces=has_faces)
    return table, order, face_order


def _unreadable(parts: Sequence[_Found]) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(entry for part in parts for entry in part.bad))


def _add_sums(sums: FeatureSums, process: ProcessRank) -> None:
    count = torch.tensor(sums.count)
    for numbers in (count, sums.sums, sums.products):
        all_reduce_sum(numbers, process)
    sums.count = int(count)


def _to_send(swept: Swept, names: Sequence[str], face_names: Sequence[str]) -> _Found:
    def whole(
        values: dict[str, "array[float]"], expected: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        # A process without images, or without faces in them, has measured nothing.
        return {name: np.array(values.get(name, ()), dtype=np.float64) for name in expected}

    ordered = [name for name in IMAGE_METRICS if name in names]
    return _Found(
        rows=swept.rows,
        bad=swept.bad,
        values=[whole(own.values, ordered) for own in swept.checkpoints],
        face_values=[whole(own.face_values, face_names) for own in swept.checkpoints],
    )


def _joined(
    parts: Sequence[dict[str, NDArray[np.float64]]], order: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _num_faces(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.array([len(row.boxes) for row in rows], dtype=np.int64)


def _image_table(rows: Sequence[Row], slices: Sequence[str], *, has_faces: bool) -> ImageTable:
    num_faces = _num_faces(rows)
    members = {
        name: np.array([bool(row.slices[place]) for row in rows], dtype=np.bool_)
        for place, name in enumerate(slices)
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
