"""How tokens spread over the codebook."""

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.results import CodebookStatistics


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
