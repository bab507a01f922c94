"""Images whose tokens no rounding can change, whatever the processor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CLEAR_GAP = 1e-3
"""Least gap between the squared distances to the nearest code and to the second nearest.

The models' float32 arithmetic moves such a gap by 1.3e-5 to 5.5e-5, by the processor: measured
with AVX-512, AVX2 and SSE 4.1. So the gap of any processor shows what all of them choose.
"""

MOST_DRAWS = 100


@torch.no_grad()
def token_gaps(model: Any, images: Tensor) -> Tensor:
    """Measure how much farther the second nearest code is than the nearest.

    Args:
        model: our VQGAN or the original's VQModel, in evaluation mode.
        images: (B, C, H, W).

    Returns:
        (B, N) float64, gaps of squared distances.
    """
    latents = model.quant_conv(model.encoder(images)).double()
    quantizer = model.quantizer if hasattr(model, "quantizer") else model.quantize
    (codes,) = (weight.double() for weight in quantizer.parameters())
    vectors = latents.permute(0, 2, 3, 1).flatten(1, 2)
    distances = torch.cdist(vectors, codes.expand(len(images), -1, -1)).square()
    nearest, second = distances.topk(2, dim=2, largest=False).values.unbind(dim=2)
    return second - nearest


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
