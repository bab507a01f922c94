"""Measures this process's images: each is read once and reconstructed by every checkpoint."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vqgan_train.evaluation.image_batches import NO_BOXES, ImageBatch, ImageRow
from vqgan_train.evaluation.metric_suite import MetricSuite
from vqgan_train.evaluation.report.results import ALL, WITH_FACE
from vqgan_train.images.bad_images import BadImages, ChunkReport
from vqgan_train.metrics.codebook import token_counts
from vqgan_train.metrics.frechet import FeatureSums
from vqgan_train.metrics.images import measure
from vqgan_train.tokens.tokenizer import Tokenizer

GrowingValues = dict[str, "array[float]"]
"""Values by metric, in arrays that grow.

A list of small tensors between short-lived pixels would fragment the heap: 30 kB per image.
"""


@dataclass(slots=True)
class LocalCheckpointResults:
    """Results of one checkpoint on the images of this process."""

    usage: Tensor
    """(codebook_size,) int64 token counts."""

    sums: dict[str, FeatureSums]
    """Feature sums of the reconstructions by group; empty if rFID is not measured."""

    values: GrowingValues
    """One value per image."""

    face_values: GrowingValues
    """One value per face."""


@dataclass(slots=True)
class LocalResults:
    """Results on the images of this process."""

    reference: dict[str, FeatureSums]
    """Feature sums of the references by group."""

    checkpoints: list[LocalCheckpointResults]
    rows: list[ImageRow] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    """Number, and name with the reason, of each unreadable image."""


def measure_images(
    batches: Iterable[ImageBatch],
    tokenizers: Sequence[Tokenizer],
    suite: MetricSuite,
    *,
    pixel_range: str,
    bad_images: BadImages,
    bar: "tqdm[Any]",
) -> LocalResults:
    """Measure images without keeping them.

    Args:
        batches: images of this process.
        tokenizers: one per checkpoint.
        suite: what to measure.
        pixel_range: range of the models' input, `signed` or `unit`.
        bad_images: counts and names the unreadable images.
        bar: progress bar, advanced by every image.

    Raises:
        UserError: too many images of this process are unreadable.
    """
    results = _empty_results(tokenizers, suite)
    for batch in batches:
        if batch.rows:
            _measure_batch(batch, tokenizers, suite, pixel_range, results)
        seen = len(batch.rows) + len(batch.bad)
        bar.update(seen)
        bad_images.count(ChunkReport(seen=seen, bad=[name for _, name in batch.bad]))
        # Most images have no face: they share one empty array instead of keeping one each.
        results.rows += [
            row if len(row.boxes) else row._replace(boxes=NO_BOXES) for row in batch.rows
        ]
        results.bad += batch.bad
    return results


def reconstruct(pixels: Tensor, tokenizer: Tokenizer, pixel_range: str) -> tuple[Tensor, Tensor]:
    """Encode and decode pixels (B, 3, H, W) uint8.

    Returns:
        Tokens (B, N) int32 and pixels (B, 3, H, W) uint8, both on the CPU.
    """
    tokens = tokenizer.encode(pixels, pixel_range)
    factor = tokenizer.model.downsampling
    grid = (pixels.shape[2] // factor, pixels.shape[3] // factor)
    return tokens, tokenizer.decode(tokens, grid, pixel_range)


def _empty_results(tokenizers: Sequence[Tokenizer], suite: MetricSuite) -> LocalResults:
    def sums() -> dict[str, FeatureSums]:
        if suite.features is None:
            return {}
        size = int(suite.features.num_features)  # type: ignore[arg-type]
        return {group: FeatureSums(size) for group in suite.groups}

    checkpoints = [
        LocalCheckpointResults(
            usage=torch.zeros(tokenizer.codebook_size, dtype=torch.int64),
            sums=sums(),
            values={name: array("d") for name in suite.images},
            face_values={name: array("d") for name in suite.face_names},
        )
        for tokenizer in tokenizers
    ]
    return LocalResults(sums(), checkpoints)


def _measure_batch(
    batch: ImageBatch,
    tokenizers: Sequence[Tokenizer],
    suite: MetricSuite,
    pixel_range: str,
    results: LocalResults,
) -> None:
    device = tokenizers[0].device
    reference = batch.pixels.to(device)
    members = group_members(batch.rows, suite.groups)
    _add_features(reference, suite, members, results.reference)
    reconstructions = []
    for tokenizer, checkpoint in zip(tokenizers, results.checkpoints, strict=True):
        tokens, pixels = reconstruct(batch.pixels, tokenizer, pixel_range)
        reconstructions.append(pixels.to(device))
        checkpoint.usage += token_counts(tokens, len(checkpoint.usage))
        _add_features(reconstructions[-1], suite, members, checkpoint.sums)
        for name, values in measure(suite.images, reference, reconstructions[-1]).items():
            checkpoint.values[name].extend(values.tolist())
    if suite.faces is not None:
        boxes = [row.boxes for row in batch.rows]
        images = np.repeat(np.arange(len(boxes)), [len(of_image) for of_image in boxes])
        measured = suite.faces.measure(reference, reconstructions, images, np.concatenate(boxes))
        for checkpoint, of_faces in zip(results.checkpoints, measured, strict=True):
            for name, face_values in of_faces.items():
                checkpoint.face_values[name].extend(face_values.tolist())


def _add_features(
    pixels: Tensor,
    suite: MetricSuite,
    members: Mapping[str, Tensor],
    sums: Mapping[str, FeatureSums],
) -> None:
    if suite.features is not None:
        features = suite.features(pixels).cpu()
        for group, is_member in members.items():
            if is_member.any():  # saves a product of two 2,048 x 2,048 matrices
                sums[group].add(features[is_member])


def group_members(rows: Sequence[ImageRow], groups: Sequence[str]) -> dict[str, Tensor]:
    """Return which images of a batch belong to each group, (B,) bool.

    Args:
        rows: the images.
        groups: ALL, WITH_FACE, and the slices in the order of `ImageRow.slices`.
    """
    slices = [group for group in groups if group not in (ALL, WITH_FACE)]
    members = {
        ALL: [True] * len(rows),
        WITH_FACE: [len(row.boxes) > 0 for row in rows],
        **{name: [bool(row.slices[index]) for row in rows] for index, name in enumerate(slices)},
    }
    return {group: torch.tensor(members[group]) for group in groups}
