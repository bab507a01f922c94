"""An evaluation from its images to what is found of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from tqdm import tqdm

from vqgan_train.evaluating.batches import ReadingRules, Request, load_batches
from vqgan_train.evaluating.merging import Merged, merge
from vqgan_train.evaluating.sweep import Instruments, reconstruct, sweep
from vqgan_train.evaluation.choosing import choose_pictures
from vqgan_train.evaluation.codebook import codebook_statistics
from vqgan_train.evaluation.faces import to_numpy
from vqgan_train.evaluation.frechet import FeatureSums, frechet_distance
from vqgan_train.evaluation.results import (
    CheckpointResult,
    DatasetFacts,
    Evaluation,
    KeptPicture,
    LeftOut,
    SetDistance,
)
from vqgan_train.evaluation.summaries import Bootstrap, differences_of, summaries_of
from vqgan_train.tokenizer import Tokenizer
from vqgan_train.tokens.share import Share
from vqgan_train.tokens.sources import Source


class Checkpoint(NamedTuple):
    """A tokenizer under a name."""

    name: str
    source: str
    """As it was set."""

    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """All that an evaluation needs.

    `source` has parts of as many images as are reconstructed at once.
    """

    source: Source
    given: tuple[str, ...]
    """Where the images come from, as it was set."""

    checkpoints: Sequence[Checkpoint]
    instruments: Instruments
    left_out: Sequence[LeftOut]
    rules: ReadingRules
    pixel_range: str
    num_workers: int
    bootstrap: Bootstrap
    pictures_each: int
    """Pictures that are kept for each reason."""

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """Of the checkpoints."""
        return [checkpoint.tokenizer for checkpoint in self.checkpoints]


def run_job(job: EvaluationJob, share: Share, bar: "tqdm[Any]") -> Evaluation | None:
    """Measure this process's images, and bring together what all found.

    Returns:
        The evaluation in the first process, None in the others.

    Raises:
        ShardError: a shard has changed since it was indexed.
        TokenError: no image could be read, or the source has changed.
    """
    batches = load_batches(_requests(job.source, share), job.rules, num_workers=job.num_workers)
    swept = sweep(batches, job.tokenizers, job.instruments, pixel_range=job.pixel_range, bar=bar)
    job.source.require_unchanged()
    names = [checkpoint.name for checkpoint in job.checkpoints]
    merged = merge(swept, names, list(job.rules.slices), job.instruments, share)
    return None if merged is None else _evaluation(job, merged)


def share_size(source: Source, share: Share) -> int:
    """Images that a process is to read."""
    return sum(source.sizes[share.rank :: share.ranks])


def _requests(source: Source, share: Share) -> Iterator[Request]:
    firsts = dict(zip(source.part_names(), accumulate(source.sizes, initial=0), strict=False))
    for name, places in source.parts(set(share.of(source.part_names()))):
        yield list(enumerate(places, firsts[name]))


def _evaluation(job: EvaluationJob, merged: Merged) -> Evaluation:
    first, *later = merged.measured
    transform = job.rules.transform
    without_column = [
        LeftOut(f"slice {name}", f"no image has the column {job.rules.slices[name].column}")
        for name in merged.without_column
    ]
    return Evaluation(
        dataset=DatasetFacts(
            given=job.given,
            fingerprint=job.source.fingerprint,
            num_images=len(merged.images.keys),
            unreadable=merged.unreadable,
            resize=transform.resize,
            image_size=transform.image_size,
            pixel_range=job.pixel_range,
            faces_looked_for=job.rules.faces is not None,
        ),
        images=merged.images,
        checkpoints=tuple(_result(job, merged, place) for place in range(len(job.checkpoints))),
        evaluators={name: str(e) for name, e in job.instruments.evaluators.items()},
        differences=tuple(
            difference
            for after in later
            for difference in differences_of(first, after, merged.images, job.bootstrap)
        ),
        left_out=(*job.left_out, *without_column),
        pictures=tuple(_pictures(job, merged)),
    )


def _result(job: EvaluationJob, merged: Merged, place: int) -> CheckpointResult:
    checkpoint, measured = job.checkpoints[place], merged.measured[place]
    return CheckpointResult(
        name=checkpoint.name,
        source=checkpoint.source,
        weights_sha256=checkpoint.tokenizer.weights_sha256,
        values=measured.values,
        face_values=measured.face_values,
        codebook=codebook_statistics(merged.usage[place]),
        rfid=_distances(job.instruments, merged.reference, merged.sums[place]),
        summaries=summaries_of(measured, merged.images, job.bootstrap),
    )


def _distances(
    instruments: Instruments,
    reference: Mapping[str, FeatureSums],
    sums: Mapping[str, FeatureSums],
) -> dict[str, SetDistance]:
    if instruments.features is None:
        return {}
    evaluator = str(instruments.features.evaluator)
    return {
        group: SetDistance(
            value=frechet_distance(reference[group], own), evaluator=evaluator, count=own.count
        )
        for group, own in sums.items()
    }


def _pictures(job: EvaluationJob, merged: Merged) -> Iterator[KeptPicture]:
    """Read and reconstruct some images once more: so none has to be kept on the way."""
    chosen = choose_pictures(merged.images, merged.measured, each=job.pictures_each)
    rows = {int(merged.images.numbers[row]): row for row in chosen}
    request = [
        (number, place) for number, place in enumerate(job.source.places()) if number in rows
    ]
    rules = job.rules._replace(faces=None)
    batches = load_batches([[one] for one in request], rules, num_workers=0)
    for batch in batches:
        row = rows[batch.rows[0].number]
        made = {
            checkpoint.name: reconstruct(batch.pixels, checkpoint.tokenizer, job.pixel_range)[1]
            for checkpoint in job.checkpoints
        }
        yield KeptPicture(
            row=row,
            reasons=chosen[row],
            original=to_numpy(batch.pixels[0]),
            reconstructions={name: to_numpy(pixels[0]) for name, pixels in made.items()},
        )
