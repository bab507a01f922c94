"""Runs an evaluation, from the source of the images to the results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from tqdm import tqdm

from vqgan_train.evaluation.gather_results import (
    GlobalResults,
    gather_results,
    require_few_bad_together,
)
from vqgan_train.evaluation.image_batches import ReadingRules, Request, load_batches
from vqgan_train.evaluation.measure_images import measure_images
from vqgan_train.evaluation.metric_suite import MetricSuite
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

REMEDY = "Fix the source, or run the command again with a larger max_bad_fraction."


class Checkpoint(NamedTuple):
    """A tokenizer and its name in the results."""

    name: str
    source: str
    """Configured path or address."""

    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """Everything that an evaluation needs."""

    source: ImageSource
    """The images, in parts of one batch each."""

    given: tuple[str, ...]
    """Configured shards or folder."""

    checkpoints: Sequence[Checkpoint]
    suite: MetricSuite
    left_out: Sequence[LeftOut]
    rules: ReadingRules
    pixel_range: str
    num_workers: int
    max_bad_fraction: float
    """Fraction of unreadable images above which the evaluation stops."""

    pictures_each: int
    """Number of pictures kept per reason."""

    resamples: int
    """Number of bootstrap resamples."""


def run_job(job: EvaluationJob, process: ProcessRank, bar: "tqdm[Any]") -> Evaluation | None:
    """Measure this process's images and gather the results of all processes.

    Returns:
        The evaluation in the first process, still without pictures; None in the others.

    Raises:
        ShardError: a shard has changed since it was indexed, or is unavailable.
        UserError: too many images are unreadable, or the source has changed.
    """
    batches = load_batches(_requests(job.source, process), job.rules, num_workers=job.num_workers)
    bad_images = BadImages(ChunkReport(), job.max_bad_fraction, bar, REMEDY)
    local = measure_images(
        batches,
        [checkpoint.tokenizer for checkpoint in job.checkpoints],
        job.suite,
        pixel_range=job.pixel_range,
        bad_images=bad_images,
        bar=bar,
    )
    job.source.require_unchanged()
    require_few_bad_together(bad_images, process)
    names = [checkpoint.name for checkpoint in job.checkpoints]
    has_faces = job.suite.faces is not None
    results = gather_results(local, names, list(job.rules.slices), process, has_faces=has_faces)
    return None if results is None else _evaluation(job, results)


def share_size(source: ImageSource, process: ProcessRank) -> int:
    """Return the number of images that a process reads."""
    return sum(source.sizes[process.rank :: process.world_size])


def _requests(source: ImageSource, process: ProcessRank) -> Iterator[Request]:
    firsts = dict(zip(source.chunk_names(), accumulate(source.sizes, initial=0), strict=False))
    for name, places in source.chunks(set(process.select(source.chunk_names()))):
        yield list(enumerate(places, firsts[name]))


def _evaluation(job: EvaluationJob, results: GlobalResults) -> Evaluation:
    first, *later = results.measured
    transform = job.rules.transform
    without_column = [
        LeftOut(f"slice {name}", f"no image has the column {job.rules.slices[name].column}")
        for name in results.without_column
    ]
    return Evaluation(
        dataset=DatasetFacts(
            given=job.given,
            fingerprint=job.source.fingerprint,
            num_images=len(results.images.keys),
            unreadable=results.unreadable,
            dead_shards=tuple(job.source.damage.dead),
            damaged_shards=tuple(job.source.damage.partly),
            resize=height_and_width(transform.resize)[0],
            image_size=height_and_width(transform.image_size)[0],
            pixel_range=job.pixel_range,
            faces_looked_for=job.rules.faces is not None,
        ),
        images=results.images,
        checkpoints=tuple(
            _checkpoint_result(job, results, index) for index in range(len(job.checkpoints))
        ),
        evaluators={name: str(e) for name, e in job.suite.evaluators.items()},
        differences=tuple(
            difference
            for after in later
            for difference in differences_of(first, after, results.images, job.resamples)
        ),
        left_out=(*job.left_out, *without_column),
        pictures=(),
    )


def _checkpoint_result(job: EvaluationJob, results: GlobalResults, index: int) -> CheckpointResult:
    checkpoint, measured = job.checkpoints[index], results.measured[index]
    return CheckpointResult(
        name=checkpoint.name,
        source=checkpoint.source,
        weights_sha256=checkpoint.tokenizer.weights_sha256,
        values=measured.values,
        face_values=measured.face_values,
        codebook=codebook_statistics(results.usage[index]),
        rfid=_distances(job.suite, results.reference, results.sums[index]),
        summaries=summaries_of(measured, results.images, job.resamples),
    )


def _distances(
    suite: MetricSuite,
    reference: Mapping[str, FeatureSums],
    sums: Mapping[str, FeatureSums],
) -> dict[str, SetDistance]:
    if suite.features is None:
        return {}
    evaluator = str(suite.features.evaluator)
    return {
        group: SetDistance(
            value=frechet_distance(reference[group], of_group),
            evaluator=evaluator,
            count=of_group.count,
        )
        for group, of_group in sums.items()
    }
