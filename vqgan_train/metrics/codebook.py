"""Statistics of how the tokens use the codebook, for validation and evaluation."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookStatistics:
    """Usage of a codebook of K codes by a set of images."""

    usage: NDArray[np.int64]
    """(K,) number of occurrences of each code."""

    codes_used: int
    dead_codes: int
    """Number of codes that never occur."""

    perplexity: float
    """exp(entropy): the number of equally frequent codes that would have the same entropy."""

    entropy_bits: float
    """Entropy of the distribution of codes, at most log2(K)."""


def token_counts(tokens: Tensor, codebook_size: int) -> Tensor:
    """Count how often each code occurs in tokens of any shape; returns (codebook_size,) int64."""
    return torch.bincount(tokens.flatten(), minlength=codebook_size)


def codebook_statistics(counts: Tensor) -> CodebookStatistics:
    """Compute the statistics from the token counts (K,) int64 of all images together."""
    counts = counts.cpu()  # because MPS has no float64
    codes_used = int((counts > 0).sum())
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy = 0 - torch.special.xlogy(shares, shares).sum()  # 0 - x, so that 0 is not -0
    return CodebookStatistics(
        usage=counts.numpy(),
        codes_used=codes_used,
        dead_codes=len(counts) - codes_used,
        perplexity=float(entropy.exp()),
        entropy_bits=float(entropy / math.log(2)),
    )
