"""Measures this process's images: each is read once and reconstructed by every checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class MeasuredImage(NamedTuple):
    """One image and its values.

    Values are floats, because arrays kept between freed pixels fragment the heap: 30 kB an image.
    """

    row: ImageRow
    values: tuple[float, ...]
    """Values of all image metrics of the first checkpoint, then of the second, and so on."""

    face_values: list[tuple[float, ...]]
    """For each face, the values of all face metrics, in the same order of checkpoints."""


@dataclass(slots=True)
class Results:
    """Results on the images of this process; after `gather_results`, of all processes."""

    usage: list[Tensor]
    """(codebook_size,) int64 token counts, per checkpoint."""

    reference: dict[str, FeatureSums]
    """Feature sums of the references by group; empty if rFID is not measured."""

    sums: list[dict[str, FeatureSums]]
    """Feature sums of the reconstructions by group, per checkpoint."""

    images: list[MeasuredImage] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    """Each unreadable image: its number, and a text with its name and the reason."""


def measure_images(
    batches: Iterable[ImageBatch],
    tokenizers: Sequence[Tokenizer],
    suite: MetricSuite,
    *,
    pixel_range: str,
    bad_images: BadImages,
    bar: "tqdm[Any]",
) -> Results:
    """Measure images batch by batch, without keeping their pixels.

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
            results.images += _measure_batch(batch, tokenizers, suite, pixel_range, results)
        seen = len(batch.rows) + len(batch.bad)
        bar.update(seen)
        bad_images.count(ChunkReport(seen=seen, bad=[name for _, name in batch.bad]))
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


def _empty_results(tokenizers: Sequence[Tokenizer], suite: MetricSuite) -> Results:
    def sums() -> dict[str, FeatureSums]:
        if suite.features is None:
            return {}
        size = int(suite.features.num_features)  # type: ignore[arg-type]
        return {group: FeatureSums(size) for group in suite.groups}

    return Results(
        usage=[torch.zeros(tokenizer.codebook_size, dtype=torch.int64) for tokenizer in tokenizers],
        reference=sums(),
        sums=[sums() for _ in tokenizers],
    )


def _measure_batch(
    batch: ImageBatch,
    tokenizers: Sequence[Tokenizer],
    suite: MetricSuite,
    pixel_range: str,
    results: Results,
) -> list[MeasuredImage]:
    """Return the values of the images; add the tokens and features of the batch to `results`."""
    device = tokenizers[0].device
    reference = batch.pixels.to(device)
    members = group_members(batch.rows, suite.groups)
    _add_features(reference, suite, members, results.reference)
    reconstructions: list[Tensor] = []
    columns: list[list[float]] = []
    for tokenizer, usage, sums in zip(tokenizers, results.usage, results.sums, strict=True):
        tokens, pixels = reconstruct(batch.pixels, tokenizer, pixel_range)
        reconstructions.append(pixels.to(device))
        usage += token_counts(tokens, len(usage))
        _add_features(reconstructions[-1], suite, members, sums)
        measured = measure(suite.images, reference, reconstructions[-1])
        columns += [values.tolist() for values in measured.values()]
    images = []
    for index, row in enumerate(batch.rows):
        versions = [pixels[index] for pixels in reconstructions]
        images.append(
            MeasuredImage(
                # Most images have no face: they share one empty array.
                row if len(row.boxes) else row._replace(boxes=NO_BOXES),
                tuple(column[index] for column in columns),
                [suite.faces.measure(reference[index], versions, box) for box in row.boxes]
                if suite.faces is not None
                else [],
            )
        )
    return images


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
    """Return which images of a batch belong to each group: (B,) bool, by group.

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
