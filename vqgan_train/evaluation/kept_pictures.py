"""Selects images to look at, reads them again and reconstructs them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vqgan_train.evaluation.image_batches import load_batches
from vqgan_train.evaluation.job import EvaluationJob
from vqgan_train.evaluation.measure_images import reconstruct
from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS
from vqgan_train.evaluation.report.results import (
    CheckpointResult,
    Evaluation,
    Floats,
    ImageTable,
    KeptPicture,
    LeftOut,
)
from vqgan_train.images.locations import ImageLocation
from vqgan_train.metrics.faces import to_numpy
from vqgan_train.system.errors import UserError


def select_pictures(
    images: ImageTable, checkpoints: Sequence[CheckpointResult], *, each: int
) -> dict[int, tuple[str, ...]]:
    """Select samples, images with faces, the best and worst, and those that changed most.

    Args:
        images: all images.
        checkpoints: the last one decides best and worst; changes are from the first to the last.
        each: number of pictures per reason.

    Returns:
        Reasons as in `KeptPicture.reasons`, by row in ascending order.
    """
    reasons: dict[str, NDArray[np.int64]] = {
        "fixed": _spread(np.arange(len(images.keys)), each),
        "face": _spread(np.unique(images.face_images), each),
    }
    first, last = checkpoints[0], checkpoints[-1]
    for metric, values in last.values.items():
        sign = 1 if IMAGE_METRICS[metric].higher_is_better else -1
        ascending = _rows_by_value(sign * values)
        reasons[f"best {metric}"] = ascending[::-1][:each]
        reasons[f"worst {metric}"] = ascending[:each]
        if first is not last:
            with np.errstate(invalid="ignore"):  # inf - inf, of two identical images
                change = sign * (values - first.values[metric])
            gained, lost = (np.where(side, change, np.nan) for side in (change > 0, change < 0))
            reasons[f"gained {metric}"] = _rows_by_value(gained)[::-1][:each]
            reasons[f"lost {metric}"] = _rows_by_value(lost)[:each]
    return _reasons_by_row(reasons)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pick up to `count` rows, evenly spaced, because neighbours in a shard may be similar."""
    return rows[np.arange(min(count, len(rows))) * len(rows) // max(1, min(count, len(rows)))]


def _rows_by_value(values: Floats) -> NDArray[np.int64]:
    """Return the rows in ascending order of their values, without those whose value is NaN."""
    order = np.argsort(values, kind="stable")
    return order[~np.isnan(values[order])]


def _reasons_by_row(reasons: Mapping[str, NDArray[np.int64]]) -> dict[int, tuple[str, ...]]:
    by_row: dict[int, tuple[str, ...]] = {}
    for reason, rows in reasons.items():
        for row in rows.tolist():
            by_row[row] = (*by_row.get(row, ()), reason)
    return dict(sorted(by_row.items()))


def add_pictures(job: EvaluationJob, evaluation: Evaluation) -> Evaluation:
    """Add the selected pictures; those that can no longer be read are listed as left out."""
    images = evaluation.images
    selected = select_pictures(images, evaluation.checkpoints, each=job.pictures_each)
    places = _find_places(job, {int(images.numbers[row]) for row in selected})
    kept: list[KeptPicture] = []
    lost: list[LeftOut] = []
    for row, reasons in selected.items():
        pixels = _read_again(job, images, row, places)
        if isinstance(pixels, str):
            lost.append(LeftOut(f"picture {images.keys[row]}", pixels))
        else:
            reconstructions = {
                name: to_numpy(reconstruct(pixels, tokenizer, job.pixel_range)[1][0])
                for name, _, tokenizer in job.checkpoints
            }
            kept.append(
                KeptPicture(
                    row=row,
                    reasons=reasons,
                    original=to_numpy(pixels[0]),
                    reconstructions=reconstructions,
                )
            )
    return replace(evaluation, pictures=tuple(kept), left_out=(*evaluation.left_out, *lost))


def _find_places(job: EvaluationJob, numbers: Collection[int]) -> dict[int, ImageLocation]:
    """Locate images by their numbers; the result lacks those that no longer exist."""
    places = {}
    # If the source can no longer be listed, the images located so far are used.
    with suppress(ValueError, OSError):
        for number, place in enumerate(job.source.locations()):
            if number in numbers:
                places[number] = place
    return places


def _read_again(
    job: EvaluationJob, images: ImageTable, row: int, places: Mapping[int, ImageLocation]
) -> Tensor | str:
    """Return the pixels (1, 3, H, W) uint8 of an image, or why they are unavailable."""
    number = int(images.numbers[row])
    if number not in places:
        return "the image no longer exists"
    request, rules = [(number, places[number])], job.rules._replace(faces=None)
    try:
        batch = next(load_batches([request], rules, num_workers=0))
    except UserError as error:  # the shard or the disk fails, not only this image
        return str(error)
    if batch.bad:
        return f"the image cannot be read again: {batch.bad[0][1]}"
    if (batch.rows[0].key, batch.rows[0].source) != (images.keys[row], images.sources[row]):
        return "another image has replaced it"
    return batch.pixels
