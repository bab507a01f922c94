"""How tokens spread over the codebook."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CodebookUse(NamedTuple):
    """How tokens spread over the codebook: () float32 scalars on the CPU."""

    used: Tensor
    """Codes that occur."""

    dead: Tensor
    """Codes that do not."""

    perplexity: Tensor
    """exp of the entropy: how many equally frequent codes would be as varied."""

    entropy_bits: Tensor
    """Of a token, if they were independent; log2(codebook_size) at most."""


def token_counts(tokens: Tensor, codebook_size: int) -> Tensor:
    """(codebook_size,) int64: how often each code occurs in tokens of any shape."""
    return torch.bincount(tokens.flatten(), minlength=codebook_size)


def codebook_use(counts: Tensor) -> CodebookUse:
    """Summarise token counts (codebook_size,), summed over as many images as one likes."""
    counts = counts.cpu()  # for float64, which not every device has
    used = (counts > 0).sum().float()
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy = 0 - torch.special.xlogy(shares, shares).sum()  # of one code 0, and not -0
    bits = entropy / math.log(2)
    return CodebookUse(used, len(counts) - used, entropy.exp().float(), bits.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookStatistics:
    """How the tokens of all images spread over the codebook."""

    usage: NDArray[np.int64]
    """(K,) how often each code occurs."""

    codes_used: int
    dead_codes: int
    perplexity: float
    """2 to the power of the entropy."""

    entropy_bits: float
    """Of a token, if they were independent; log2(K) at most."""


def codebook_statistics(usage: NDArray[np.int64]) -> CodebookStatistics:
    """Summarise how often each code occurs, (K,) int64, in all images together."""
    used = usage[usage > 0]
    shares = used / max(1, used.sum())
    entropy_bits = max(0.0, float(-(shares * np.log2(shares)).sum()))  # not -0
    return CodebookStatistics(
        usage=usage,
        codes_used=len(used),
        dead_codes=len(usage) - len(used),
        perplexity=2**entropy_bits,
        entropy_bits=entropy_bits,
    )
