"""Codebook statistics: those that training logs, from usage alone."""

import numpy as np
import pytest
import torch

from vqgan_train.metrics.codebook import codebook_statistics, codebook_use


def test_they_are_those_of_training() -> None:
    usage = np.random.default_rng(0).integers(0, 4, 100)
    ours, theirs = codebook_statistics(usage), codebook_use(torch.from_numpy(usage))
    assert ours.codes_used == int(theirs.used)
    assert ours.dead_codes == int(theirs.dead)
    assert ours.perplexity == pytest.approx(float(theirs.perplexity), rel=1e-6)
    assert ours.entropy_bits == pytest.approx(float(theirs.entropy_bits), rel=1e-6)
    np.testing.assert_array_equal(ours.usage, usage)


def test_equal_use_of_all_codes_has_their_number_of_bits() -> None:
    statistics = codebook_statistics(np.full(16_384, 3))
    assert (statistics.entropy_bits, statistics.dead_codes) == (pytest.approx(14), 0)


def test_one_code_alone_has_no_entropy() -> None:
    statistics = codebook_statistics(np.array([0, 7, 0]))
    assert (statistics.entropy_bits, statistics.perplexity, statistics.dead_codes) == (0, 1, 2)
    assert codebook_statistics(np.zeros(3, np.int64)).codes_used == 0
