"""Codebook statistics, compared with numbers worked out by hand."""

import math

import pytest
import torch

from vqgan_train.metrics.codebook import codebook_statistics, token_counts


@pytest.mark.parametrize(
    ("counts", "used", "dead", "perplexity"),
    [
        ([5, 5, 5, 5], 4, 0, 4.0),
        ([7, 0, 0, 0], 1, 3, 1.0),
        ([2, 2, 0, 0], 2, 2, 2.0),
        # exp(-(0.5 ln 0.5 + 2 * 0.25 ln 0.25)) = 2 ** 1.5
        ([2, 1, 1, 0], 3, 1, 2**1.5),
        ([0, 0, 0, 0], 0, 4, 1.0),
    ],
)
def test_statistics_of_known_counts(
    counts: list[int], used: int, dead: int, perplexity: float
) -> None:
    statistics = codebook_statistics(torch.tensor(counts))
    assert (statistics.codes_used, statistics.dead_codes) == (used, dead)
    assert statistics.perplexity == pytest.approx(perplexity)
    assert statistics.entropy_bits == pytest.approx(math.log2(perplexity))
    assert math.copysign(1, statistics.entropy_bits) == 1
    assert statistics.usage.tolist() == counts


def test_perplexity_of_many_tokens_is_exact() -> None:
    statistics = codebook_statistics(torch.full((16_384,), 10**9))
    assert statistics.perplexity == pytest.approx(16_384, rel=1e-6)
    assert statistics.entropy_bits == pytest.approx(14, rel=1e-6)


def test_token_counts_of_any_shape() -> None:
    tokens = torch.tensor([[[0, 3], [3, 1]]])
    assert token_counts(tokens, 5).tolist() == [1, 1, 0, 2, 0]
