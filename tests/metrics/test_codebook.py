"""Codebook statistics, compared with numbers worked out by hand."""

import math

import numpy as np
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


@pytest.mark.parametrize(("tokens", "codes"), [(40, 16), (2560, 16_384), (70_000, 64), (1, 9)])
def test_what_a_uniform_codebook_shows_is_what_random_tokens_show(tokens: int, codes: int) -> None:
    random = np.random.default_rng(0)
    drawn = [
        codebook_statistics(
            torch.from_numpy(np.bincount(random.integers(0, codes, tokens), minlength=codes))
        )
        for _ in range(200)
    ]
    expected = drawn[0]
    assert expected.num_tokens == tokens
    used, entropies = (
        np.array([getattr(one, name) for one in drawn]) for name in ("codes_used", "entropy_bits")
    )
    for values, mean in (
        (used, expected.uniform_codes_used),
        (entropies, math.log2(expected.uniform_perplexity)),
    ):
        assert mean == pytest.approx(values.mean(), abs=4 * values.std() / 200**0.5 + 1e-9)


def test_a_uniform_codebook_of_few_tokens_shows_dead_codes_and_of_many_none() -> None:
    few = codebook_statistics(torch.tensor([2560, *[0] * 16_383]))
    assert 16_384 - few.uniform_codes_used == pytest.approx(14_014, abs=1)
    assert few.uniform_perplexity == pytest.approx(2289, rel=0.01)
    many = codebook_statistics(torch.full((16_384,), 10**5))
    assert many.uniform_codes_used == pytest.approx(16_384)
    assert many.uniform_perplexity == pytest.approx(16_384, rel=1e-5)
    for below in (999, 1000):  # sums and approximation
        exact = codebook_statistics(torch.full((64,), below + 1)).uniform_perplexity
        assert exact == pytest.approx(64 * math.exp(-63 / (128 * (below + 1))), rel=1e-4 / below)
    one = codebook_statistics(torch.tensor([7]))
    assert (one.uniform_codes_used, one.uniform_perplexity) == (1, 1)


def test_token_counts_of_any_shape() -> None:
    tokens = torch.tensor([[[0, 3], [3, 1]]])
    assert token_counts(tokens, 5).tolist() == [1, 1, 0, 2, 0]
