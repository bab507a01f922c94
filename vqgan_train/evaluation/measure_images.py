"""One pass over this process's images: each is read once and reconstructed by every checkpoint."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from vqgan_train.evaluation.image_batches import NO_BOXES, Batch, Row
from vqgan_train.evaluation.report.results import ALL, WITH_FACE
from vqgan_train.images.bad_images import BadImages, ChunkReport
from vqgan_train.metrics.faces import FaceMetrics
from vqgan_train.metrics.frechet import Evaluator, FeatureSums
from vqgan_train.metrics.images import ImageMetric, measure
from vqgan_train.tokens.tokenizer import Tokenizer


class Instruments(NamedTuple):
    """What images are measured with; all that could be had."""

    images: Mapping[str, ImageMetric]
    faces: FaceMetrics | None
    features: nn.Module | None
    """From (B, 3, H, W) uint8 to (B, num_features): the network of rFID."""

    groups: tuple[str, ...]
    """Of which an rFID is taken: ALL, and slices in the order of `Row.slices`, then WITH_FACE."""

    evaluators: Mapping[str, Evaluator] = MappingProxyType({})
    """Networks of `images`, by the metric's name."""


@dataclass(slots=True)
class Reconstructed:
    """What one checkpoint made of the images so far: a few numbers each."""

    usage: NDArray[np.int64]
    """(codebook_size,)."""

    sums: dict[str, FeatureSums]
    """By group; none without a network of features."""

    values: dict[str, "array[float]"] = field(default_factory=dict)
    """Grown in one block each: small tensors that stay between pixels that go would keep the heap
    from shrinking, which took 30 kB an image."""

    face_values: dict[str, "array[float]"] = field(default_factory=dict)


@dataclass(slots=True)
class Swept:
    """What this process found."""

    reference: dict[str, FeatureSums]
    checkpoints: list[Reconstructed]
    rows: list[Row] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


def sweep(
    batches: Iterable[Batch],
    tokenizers: Sequence[Tokenizer],
    instruments: Instruments,
    *,
    pixel_range: str,
    bad_images: BadImages,
    bar: "tqdm[Any]",
) -> Swept:
    """Measure images; none of them is kept.

    Args:
        batches: of this process.
        tokenizers: of the checkpoints.
        instruments: measure.
        pixel_range: what the models are given.
        bad_images: counts those that cannot be read, and names them.
        bar: the progress bar, moved by each image.

    Raises:
        TokenError: too many images of this process cannot be read.
    """
    found = _nothing(tokenizers, instruments)
    for batch in batches:
        if batch.rows:
            _take(batch, tokenizers, instruments, pixel_range, found)
        seen = len(batch.rows) + len(batch.bad)
        bar.update(seen)
        bad_images.count(ChunkReport(seen=seen, bad=[name for _, name in batch.bad]))
        # Likewise: most images have no faces, and can have the same array of none.
        found.rows += [
            row if len(row.boxes) else row._replace(boxes=NO_BOXES) for row in batch.rows
        ]
        found.bad += batch.bad
    return found


def reconstruct(pixels: Tensor, tokenizer: Tokenizer, pixel_range: str) -> tuple[Tensor, Tensor]:
    """Tokens (B, N) int32 and pixels (B, 3, H, W) uint8, both on the CPU, of such pixels."""
    tokens = tokenizer.encode(pixels, pixel_range)
    factor = tokenizer.model.downsampling
    grid = (pixels.shape[2] // factor, pixels.shape[3] // factor)
    return tokens, tokenizer.decode(tokens, grid, pixel_range)


def _nothing(tokenizers: Sequence[Tokenizer], instruments: Instruments) -> Swept:
    def sums() -> dict[str, FeatureSums]:
        if instruments.features is None:
            return {}
        size = int(instruments.features.num_features)  # type: ignore[arg-type]
        return {group: FeatureSums(size) for group in instruments.groups}

    checkpoints = [
        Reconstructed(np.zeros(tokenizer.codebook_size, np.int64), sums())
        for tokenizer in tokenizers
    ]
    return Swept(sums(), checkpoints)


def _take(
    batch: Batch,
    tokenizers: Sequence[Tokenizer],
    instruments: Instruments,
    pixel_range: str,
    found: Swept,
) -> None:
    device = tokenizers[0].device
    reference = batch.pixels.to(device)
    members = _members(batch.rows, instruments.groups)
    _add_features(reference, instruments, members, found.reference)
    made = []
    for tokenizer, own in zip(tokenizers, found.checkpoints, strict=True):
        tokens, pixels = reconstruct(batch.pixels, tokenizer, pixel_range)
        made.append(pixels.to(device))
        own.usage += np.bincount(tokens.flatten().numpy(), minlength=len(own.usage))
        _add_features(made[-1], instruments, members, own.sums)
        for name, values in measure(instruments.images, reference, made[-1]).items():
            own.values.setdefault(name, array("d")).extend(values.tolist())
    if instruments.faces is not None:
        boxes = [row.boxes for row in batch.rows]
        images = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
        measured = instruments.faces.measure(reference, made, images, np.concatenate(boxes))
        for own, of_faces in zip(found.checkpoints, measured, strict=True):
            for name, face_values in of_faces.items():
                own.face_values.setdefault(name, array("d")).extend(face_values.tolist())


def _add_features(
    pixels: Tensor,
    instruments: Instruments,
    members: Mapping[str, Tensor],
    sums: Mapping[str, FeatureSums],
) -> None:
    if instruments.features is not None:
        features = instruments.features(pixels).cpu()
        for group, chosen in members.items():
            if chosen.any():  # else a product of two thousand by two thousand for nothing
                sums[group].add(features[chosen])


def _members(rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Tensor]:
    """Which images of a batch belong to each group: (B,) bool."""
    slices = [group for group in groups if group not in (ALL, WITH_FACE)]
    chosen = {
        ALL: [True] * len(rows),
        WITH_FACE: [len(row.boxes) > 0 for row in rows],
        **{name: [bool(row.slices[place]) for row in rows] for place, name in enumerate(slices)},
    }
    return {group: torch.tensor(chosen[group]) for group in groups}
