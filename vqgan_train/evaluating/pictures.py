"""Pictures to look at: read and reconstructed once more, so that none is kept on the way.

Hours may lie between the two, and the numbers are written by then: an image that cannot be read
again costs its picture, and nothing else.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from vqgan_train.data.shards import ShardError
from vqgan_train.evaluating.batches import load_batches
from vqgan_train.evaluating.job import EvaluationJob
from vqgan_train.evaluating.sweep import reconstruct
from vqgan_train.evaluation.choosing import choose_pictures
from vqgan_train.evaluation.faces import to_numpy
from vqgan_train.evaluation.results import Evaluation, KeptPicture, LeftOut
from vqgan_train.evaluation.summaries import Measured
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.places import Place


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


def _places(job: EvaluationJob, numbers: Collection[int]) -> dict[int, Place]:
    """Where images of some numbers are; without those that are nowhere any more."""
    found = {}
    with suppress(ValueError, OSError):  # of whatever keeps the source from being listed
        for number, place in enumerate(job.source.places()):
            if number in numbers:
                found[number] = place
    return found


def _read_again(
    job: EvaluationJob, found: Evaluation, row: int, places: Mapping[int, Place]
) -> Tensor | str:
    """Pixels (1, 3, H, W) uint8 of an image; or why it cannot be had."""
    images, number = found.images, int(found.images.numbers[row])
    if number not in places:
        return "the image is not there any more"
    request, rules = [(number, places[number])], job.rules._replace(faces=None)
    try:
        batch = next(load_batches([request], rules, num_workers=0))
    except (ShardError, TokenError) as error:  # not the image's alone
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
