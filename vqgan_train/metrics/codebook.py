"""Statistics of how the tokens use the codebook, for validation and evaluation."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MANY_PER_CODE = 1000
"""Tokens per code from which the approximate entropy of random tokens is off by less than 1e-7."""


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

    num_tokens: int
    uniform_codes_used: float
    """Expected `codes_used` of as many tokens, each drawn from all codes with equal chances."""

    uniform_perplexity: float
    """Perplexity of such tokens, by their expected entropy; below K, because few tokens cannot use
    all codes equally often."""


def token_counts(tokens: Tensor, codebook_size: int) -> Tensor:
    """Count how often each code occurs in tokens of any shape; returns (codebook_size,) int64."""
    return torch.bincount(tokens.flatten(), minlength=codebook_size)


def codebook_statistics(counts: Tensor) -> CodebookStatistics:
    """Compute the statistics from the token counts (K,) int64 of all images together."""
    counts = counts.cpu()  # because MPS has no float64
    codes_used, num_tokens = int((counts > 0).sum()), int(counts.sum())
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy = 0 - torch.special.xlogy(shares, shares).sum()  # 0 - x, so that 0 is not -0
    uniform_codes_used, uniform_perplexity = _uniform(num_tokens, len(counts))
    return CodebookStatistics(
        usage=counts.numpy(),
        codes_used=codes_used,
        dead_codes=len(counts) - codes_used,
        perplexity=float(entropy.exp()),
        entropy_bits=float(entropy / math.log(2)),
        num_tokens=num_tokens,
        uniform_codes_used=uniform_codes_used,
        uniform_perplexity=uniform_perplexity,
    )


def _uniform(num_tokens: int, num_codes: int) -> tuple[float, float]:
    """Return the expected number of used codes, and the perplexity, of T random tokens.

    Each code occurs X times, X ~ Binomial(T, 1/K), and the entropy is log T - K/T E[X log X]; for
    many tokens log K - (K - 1) / 2T (Miller 1955).
    """
    if num_codes == 1 or not num_tokens:
        return float(min(num_codes, num_tokens)), 1.0
    used = num_codes * (1 - (1 - 1 / num_codes) ** num_tokens)
    mean = num_tokens / num_codes
    if mean > MANY_PER_CODE:
        return used, num_codes * math.exp((1 - num_codes) / (2 * num_tokens))
    last = min(num_tokens, round(mean + 12 * math.sqrt(mean) + 40))  # no chance beyond
    times = torch.arange(last + 1, dtype=torch.float64)
    chances = torch.distributions.Binomial(num_tokens, torch.tensor(1 / num_codes).double())
    # The shares add up to 1 in spite of rounding.
    shares = chances.log_prob(times).softmax(dim=0)  # type: ignore[no-untyped-call]
    lost = float((shares * torch.special.xlogy(times, times)).sum()) / mean
    return used, math.exp(math.log(num_tokens) - lost)
