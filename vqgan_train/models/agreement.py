"""How far two tokenizers that should be the same differ."""

from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.models.vqgan import VQGAN


class Agreement(NamedTuple):
    """What two tokenizers make of the same images."""

    num_tokens: int
    equal_tokens: int
    """Places that have the same token in both."""

    largest_difference: float
    """Of two decoded values at the same place, about [-1, 1], from the first one's tokens."""


@torch.no_grad()
def agreement(first: VQGAN, second: VQGAN, images: Tensor) -> Agreement:
    """Compare two tokenizers on images (B, C, H, W) in [-1, 1]."""
    tokens = first.encode(images)
    grid = (images.shape[2] // first.downsampling, images.shape[3] // first.downsampling)
    equal = int((tokens == second.encode(images)).sum())
    difference = first.decode(tokens, grid) - second.decode(tokens, grid)
    return Agreement(tokens.numel(), equal, float(difference.abs().max()))
