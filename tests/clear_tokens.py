"""Images whose tokens no rounding can change, whatever the processor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from vqgan_train.models import VectorQuantizer

CLEAR_GAP = 6e-5
"""Least gap between the squared distances to the nearest code and to the second nearest.

Gaps are in mean squared lengths of a code. The models' float32 arithmetic moves a gap by 8e-6 at
most, measured against float64 with AVX-512, AVX2 and SSE 4.1: so two runs on whatever processors
differ by 1.6e-5, and the gap of any one shows what all of them choose.
"""

MOST_DRAWS = 100


def token_gaps(model: Any, images: Tensor) -> Tensor:
    """Measure how much farther the second nearest code is than the nearest.

    Args:
        model: our VQGAN or the original's VQModel, in evaluation mode.
        images: (B, C, H, W).

    Returns:
        (B, N) float64, gaps of squared distances, in mean squared lengths of a code.
    """
    quantizer = model.quantizer if hasattr(model, "quantizer") else model.quantize
    (codes,) = quantizer.parameters()
    with torch.no_grad():
        return _gaps(model.quant_conv(model.encoder(images)), codes)


@torch.no_grad()
def _gaps(latents: Tensor, codes: Tensor) -> Tensor:
    codes = codes.double()
    vectors = latents.double().permute(0, 2, 3, 1).flatten(1, 2)
    distances = torch.cdist(vectors, codes.expand(len(vectors), -1, -1)).square()
    nearest, second = distances.topk(2, dim=2, largest=False).values.unbind(dim=2)
    return (second - nearest) / codes.square().sum(dim=1).mean()


def has_clear_tokens(model: Any, images: Tensor) -> bool:
    """Tell whether all processors choose the same tokens for the images."""
    return bool(token_gaps(model, images).min() > CLEAR_GAP)


def clear_images(model: Any, draw: Callable[[int], Tensor], count: int = 2) -> Tensor:
    """Draw images from the seeds 0, 1, ... and keep those whose tokens are clear.

    Args:
        model: as in `token_gaps`.
        draw: makes one image (1, C, H, W) from a seed.
        count: how many images to keep.

    Returns:
        (count, C, H, W).
    """
    kept: list[Tensor] = []
    for seed in range(MOST_DRAWS):
        image = draw(seed)
        if has_clear_tokens(model, image):
            kept.append(image)
        if len(kept) == count:
            return torch.cat(kept)
    raise AssertionError(f"only {len(kept)} of {MOST_DRAWS} images have clear tokens")


@contextmanager
def smallest_gaps() -> Iterator[list[float]]:
    """Collect the smallest gap of each batch that this process quantizes."""
    found: list[float] = []
    nearest = VectorQuantizer.nearest

    def measure(self: VectorQuantizer, latents: Tensor) -> Tensor:
        found.append(float(_gaps(latents, self.codebook.weight).min()))
        return nearest(self, latents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorQuantizer, "nearest", measure)
        yield found
