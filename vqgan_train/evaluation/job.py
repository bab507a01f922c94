"""Runs an evaluation, from the source of the images to the results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vqgan_train.evaluation.gather_results import (
    gather_results,
    image_table,
    require_few_bad_together,
)
from vqgan_train.evaluation.image_batches import ReadingRules, Request, load_batches
from vqgan_train.evaluation.measure_images import Results, measure_images
from vqgan_train.evaluation.metric_suite import MetricSuite
from vqgan_train.evaluation.report.results import (
    CheckpointResult,
    DatasetFacts,
    Evaluation,
    Floats,
    ImageTable,
    LeftOut,
    SetDistance,
)
from vqgan_train.evaluation.report.summaries import differences_of, summaries_of
from vqgan_train.images.bad_images import BadImages, ChunkReport
from vqgan_train.images.sources import ImageSource
from vqgan_train.images.transforms import height_and_width
from vqgan_train.metrics.codebook import codebook_statistics
from vqgan_train.metrics.frechet import FeatureSums, frechet_distance
from vqgan_train.system.addresses import redact
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
        UserError: too many images, or all, are unreadable; or the source has changed.
    """
    requests = _requests(job.source, process)
    bad_images = BadImages(ChunkReport(), job.max_bad_fraction, bar, REMEDY)
    results = measure_images(
        load_batches(requests, job.rules, num_workers=job.num_workers),
        [checkpoint.tokenizer for checkpoint in job.checkpoints],
        job.suite,
        pixel_range=job.pixel_range,
        bad_images=bad_images,
        bar=bar,
    )
    job.source.require_unchanged()
    require_few_bad_together(bad_images, process)
    gather_results(results, process)
    return _evaluation(job, results) if process.rank == 0 else None


def _requests(source: ImageSource, process: ProcessRank) -> Iterator[Request]:
    firsts = dict(zip(source.chunk_names(), accumulate(source.sizes, initial=0), strict=False))
    for name, places in source.chunks(set(process.select(source.chunk_names()))):
        yield list(enumerate(places, firsts[name]))


def _evaluation(job: EvaluationJob, results: Results) -> Evaluation:
    transform, has_faces = job.rules.transform, job.suite.faces is not None
    images = image_table(results.images, list(job.rules.slices), has_faces=has_faces)
    checkpoints = tuple(
        _checkpoint_result(job, results, images, index) for index in range(len(job.checkpoints))
    )
    without_column = [
        LeftOut(f"slice {name}", f"no image has the column {rule.column}")
        for index, (name, rule) in enumerate(job.rules.slices.items())
        if all(image.row.slices[index] is None for image in results.images)
    ]
    return Evaluation(
        dataset=DatasetFacts(
            given=job.given,
            fingerprint=job.source.fingerprint,
            num_images=len(results.images),
            unreadable=tuple(name for _, name in results.bad),
            dead_shards=tuple(job.source.damage.dead),
            damaged_shards=tuple(job.source.damage.partly),
            resize=height_and_width(transform.resize)[0],
            image_size=height_and_width(transform.image_size)[0],
            pixel_range=job.pixel_range,
            faces_looked_for=has_faces,
        ),
        images=images,
        checkpoints=checkpoints,
        evaluators={name: str(e) for name, e in job.suite.evaluators.items()},
        differences=tuple(
            difference
            for after in checkpoints[1:]
            for difference in differences_of(checkpoints[0], after, images, job.resamples)
        ),
        left_out=(*job.left_out, *without_column),
        pictures=(),
    )


def _checkpoint_result(
    job: EvaluationJob, results: Results, images: ImageTable, index: int
) -> CheckpointResult:
    checkpoint, suite = job.checkpoints[index], job.suite
    values = _values([image.values for image in results.images], job, list(suite.images), index)
    face_values = _values(
        [of_face for image in results.images for of_face in image.face_values],
        job,
        suite.face_names,
        index,
    )
    return CheckpointResult(
        name=checkpoint.name,
        source=redact(checkpoint.source),
        weights_sha256=checkpoint.tokenizer.weights_sha256,
        values=values,
        face_values=face_values,
        codebook=codebook_statistics(results.usage[index]),
        rfid=_distances(suite, results.reference, results.sums[index]),
        summaries=summaries_of(values, face_values, images, job.resamples),
    )


def _values(
    rows: Sequence[tuple[float, ...]], job: EvaluationJob, metrics: Sequence[str], index: int
) -> dict[str, Floats]:
    """Return one checkpoint's values by metric, from rows with the values of all checkpoints."""
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(job.checkpoints), len(metrics))
    return {metric: values[:, index, column] for column, metric in enumerate(metrics)}


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
