"""Gathers the results of all processes in the first one, in the order of the dataset."""

from collections.abc import Sequence

import numpy as np
import torch

from vqgan_train.evaluation.measure_images import MeasuredImage, Results
from vqgan_train.evaluation.report.results import WITH_FACE, ImageTable
from vqgan_train.images.bad_images import BadImages
from vqgan_train.metrics.frechet import FeatureSums
from vqgan_train.system.errors import UserError
from vqgan_train.system.launch import ProcessRank
from vqgan_train.system.process_group import all_reduce_sum, gather_to_first


def gather_results(results: Results, process: ProcessRank) -> None:
    """Merge the results of all processes into `results` of the first process.

    Every process must call this. Afterwards `results` are valid in the first process only.

    Raises:
        UserError: no image could be read; raised in the first process.
    """
    for counts in results.usage:
        all_reduce_sum(counts, process)
    for sums in (results.reference, *results.sums):
        for group in sums.values():
            _add_sums(group, process)
    parts = gather_to_first((results.images, results.bad), process)
    results.images = [image for images, _ in parts for image in images]
    results.images.sort(key=lambda image: image.row.number)
    results.bad = sorted(entry for _, bad in parts for entry in bad)
    if parts and not results.images:
        raise UserError(
            f"None of the {len(results.bad)} images could be read. The first: {results.bad[0][1]}. "
            "Check the shards or the folder."
        )


def require_few_bad_together(bad_images: BadImages, process: ProcessRank) -> None:
    """Stop all processes if too many of all images are unreadable.

    Each process alone may be below the limit, because fewer than 100 images count as 100.

    Args:
        bad_images: counts of this process; replaced by their sums over all processes.
        process: rank and number of processes.

    Raises:
        UserError: too many images are unreadable.
    """
    counts = torch.tensor([bad_images.seen, bad_images.bad])
    all_reduce_sum(counts, process)
    bad_images.seen, bad_images.bad = counts.tolist()
    bad_images.require_few("The first are named above.")


def _add_sums(sums: FeatureSums, process: ProcessRank) -> None:
    count = torch.tensor(sums.count)
    for numbers in (count, sums.sums, sums.products):
        all_reduce_sum(numbers, process)
    sums.count = int(count)


def image_table(
    images: Sequence[MeasuredImage], slices: Sequence[str], *, has_faces: bool
) -> ImageTable:
    """Convert images to the columns of a table; `has_faces` adds WITH_FACE to the `slices`."""
    rows = [image.row for image in images]
    num_faces = np.array([len(row.boxes) for row in rows], dtype=np.int64)
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
