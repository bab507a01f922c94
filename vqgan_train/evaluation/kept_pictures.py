"""Which pictures to keep for people to look at."""

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
    Evaluation,
    Floats,
    ImageTable,
    KeptPicture,
    LeftOut,
)
from vqgan_train.evaluation.report.summaries import Measured
from vqgan_train.images.locations import ImageLocation
from vqgan_train.metrics.faces import to_numpy
from vqgan_train.system.errors import UserError


def choose_pictures(
    images: ImageTable, measured: Sequence[Measured], *, each: int
) -> dict[int, tuple[str, ...]]:
    """Choose rows: some fixed, with faces, the best and worst, those that changed most.

    Args:
        images: all that there are.
        measured: of each checkpoint. Best and worst are the last one's.
        each: pictures for each reason.

    Returns:
        The reasons, as KeptPicture has them, by row, ascending.
    """
    reasons: dict[str, NDArray[np.int64]] = {
        "fixed": _spread(np.arange(len(images.keys)), each),
        "face": _spread(np.unique(images.face_images), each),
    }
    first, last = measured[0], measured[-1]
    for metric, values in last.values.items():
        good = values if IMAGE_METRICS[metric].higher_is_better else -values
        reasons |= _ends(good, f"best {metric}", f"worst {metric}", each)
        if first is not last:
            sign = 1 if IMAGE_METRICS[metric].higher_is_better else -1
            with np.errstate(invalid="ignore"):
                change = sign * (values - first.values[metric])
            gained, lost = (np.where(side, change, np.nan) for side in (change > 0, change < 0))
            reasons[f"gained {metric}"] = _ends(gained, "most", "least", each)["most"]
            reasons[f"lost {metric}"] = _ends(lost, "least", "most", each)["most"]
    return _by_row(reasons)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Some rows at equal distances: neighbours in a shard may be alike."""
    return rows[np.arange(min(count, len(rows))) * len(rows) // max(1, min(count, len(rows)))]


def _ends(good: Floats, best: str, worst: str, count: int) -> dict[str, NDArray[np.int64]]:
    order = np.argsort(good, kind="stable")
    order = order[~np.isnan(good[order])]
    return {best: order[::-1][:count], worst: order[:count]}


def _by_row(reasons: Mapping[str, NDArray[np.int64]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for reason, rows in reasons.items():
        for row in rows.tolist():
            found[row] = (*found.get(row, ()), reason)
    return dict(sorted(found.items()))


def with_pictures(job: EvaluationJob, found: Evaluation) -> Evaluation:
    """Add pictures to what was found of the same images; name those that cannot be had any more."""
    measured = [Measured(own.name, own.values, own.face_values) for own in found.checkpoints]
    chosen = choose_pictures(found.images, measured, each=job.pictures_each)
    places = _places(job, {int(found.images.numbers[row]) for row in chosen})
    kept: list[KeptPicture] = []
    lost: list[LeftOut] = []
    for row, reasons in chosen.items():
        read = _read_again(job, found, row, places)
        if isinstance(read, str):
            lost.append(LeftOut(f"picture {found.images.keys[row]}", read))
        else:
            kept.append(_picture(job, row, reasons, read))
    return replace(found, pictures=tuple(kept), left_out=(*found.left_out, *lost))


def _places(job: EvaluationJob, numbers: Collection[int]) -> dict[int, ImageLocation]:
    """Where images of some numbers are; without those that are nowhere any more."""
    found = {}
    with suppress(ValueError, OSError):  # of whatever keeps the source from being listed
        for number, place in enumerate(job.source.locations()):
            if number in numbers:
                found[number] = place
    return found


def _read_again(
    job: EvaluationJob, found: Evaluation, row: int, places: Mapping[int, ImageLocation]
) -> Tensor | str:
    """Pixels (1, 3, H, W) uint8 of an image; or why it cannot be had."""
    images, number = found.images, int(found.images.numbers[row])
    if number not in places:
        return "the image is not there any more"
    request, rules = [(number, places[number])], job.rules._replace(faces=None)
    try:
        batch = next(load_batches([request], rules, num_workers=0))
    except UserError as error:  # not the image's alone
        return str(error)
    if batch.bad:
        return f"the image cannot be read again: {batch.bad[0][1]}"
    if (batch.rows[0].key, batch.rows[0].source) != (images.keys[row], images.sources[row]):
        return "another image is in its place by now"
    return batch.pixels


def _picture(job: EvaluationJob, row: int, reasons: tuple[str, ...], pixels: Tensor) -> KeptPicture:
    return KeptPicture(
        row=row,
        reasons=reasons,
        original=to_numpy(pixels[0]),
        reconstructions={
            name: to_numpy(reconstruct(pixels, tokenizer, job.pixel_range)[1][0])
            for name, _, tokenizer in job.checkpoints
        },
    )
