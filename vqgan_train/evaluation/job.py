"""An evaluation from its images to what is found of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from tqdm import tqdm

from vqgan_train.evaluation.gather_results import Merged, merge, require_few_bad_together
from vqgan_train.evaluation.image_batches import ReadingRules, Request, load_batches
from vqgan_train.evaluation.measure_images import Instruments, sweep
from vqgan_train.evaluation.report.results import (
    CheckpointResult,
    DatasetFacts,
    Evaluation,
    LeftOut,
    SetDistance,
)
from vqgan_train.evaluation.report.summaries import differences_of, summaries_of
from vqgan_train.images.bad_images import BadImages, ChunkReport
from vqgan_train.images.sources import ImageSource
from vqgan_train.images.transforms import height_and_width
from vqgan_train.metrics.codebook import codebook_statistics
from vqgan_train.metrics.frechet import FeatureSums, frechet_distance
from vqgan_train.system.launch import ProcessRank
from vqgan_train.tokens.tokenizer import Tokenizer

REMEDY = "Mend the source, or begin again with a larger max_bad_fraction."


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

    source: ImageSource
    given: tuple[str, ...]
    """Where the images come from, as it was set."""

    checkpoints: Sequence[Checkpoint]
    instruments: Instruments
    left_out: Sequence[LeftOut]
    rules: ReadingRules
    pixel_range: str
    num_workers: int
    max_bad_fraction: float
    """Fraction of unreadable images at which the evaluation stops."""

    resamples: int
    """Number of bootstrap resamples."""

    pictures_each: int
    """Number of pictures kept per reason."""

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """Of the checkpoints."""
        return [checkpoint.tokenizer for checkpoint in self.checkpoints]


def run_job(job: EvaluationJob, process: ProcessRank, bar: "tqdm[Any]") -> Evaluation | None:
    """Measure this process's images, and bring together what all found.

    Returns:
        The evaluation in the first process, without pictures yet; None in the others.

    Raises:
        ShardError: a shard has changed since it was indexed, or cannot be had.
        TokenError: too many images or all could not be read, or the source has changed.
    """
    batches = load_batches(_requests(job.source, process), job.rules, num_workers=job.num_workers)
    bad_images = BadImages(ChunkReport(), job.max_bad_fraction, bar, REMEDY)
    swept = sweep(
        batches,
        job.tokenizers,
        job.instruments,
        pixel_range=job.pixel_range,
        bad_images=bad_images,
        bar=bar,
    )
    job.source.require_unchanged()
    require_few_bad_together(bad_images, process)
    names = [checkpoint.name for checkpoint in job.checkpoints]
    merged = merge(swept, names, list(job.rules.slices), job.instruments, process)
    return None if merged is None else _evaluation(job, merged)


def share_size(source: ImageSource, process: ProcessRank) -> int:
    """Images that a process is to read."""
    return sum(source.sizes[process.rank :: process.world_size])


def _requests(source: ImageSource, process: ProcessRank) -> Iterator[Request]:
    firsts = dict(zip(source.chunk_names(), accumulate(source.sizes, initial=0), strict=False))
    for name, places in source.chunks(set(process.select(source.chunk_names()))):
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
            dead_shards=tuple(job.source.damage.dead),
            damaged_shards=tuple(job.source.damage.partly),
            resize=height_and_width(transform.resize)[0],
            image_size=height_and_width(transform.image_size)[0],
            pixel_range=job.pixel_range,
            faces_looked_for=job.rules.faces is not None,
        ),
        images=merged.images,
        checkpoints=tuple(_result(job, merged, place) for place in range(len(job.checkpoints))),
        evaluators={name: str(e) for name, e in job.instruments.evaluators.items()},
        differences=tuple(
            difference
            for after in later
            for difference in differences_of(first, after, merged.images, job.resamples)
        ),
        left_out=(*job.left_out, *without_column),
        pictures=(),
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
        summaries=summaries_of(measured, merged.images, job.resamples),
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
