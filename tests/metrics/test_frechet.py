"""The Frechet distance from sums equals torchmetrics', independent of batches."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from vqgan_train.metrics.frechet import FeatureSums, frechet_distance

FEATURES = 12


class AsTheyAre(nn.Module):
    """Identity network, so that torchmetrics sums our features."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(count: int, *, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(9))
    drawn = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return drawn @ mix.double() + 3 + shift


def sums_of(*batches: Tensor) -> FeatureSums:
    sums = FeatureSums(FEATURES)
    for batch in batches:
        sums.add(batch)
    return sums


@pytest.mark.parametrize(
    "count", [2, 5, 500], ids=["as few as can be", "fewer images than features", "more"]
)
def test_the_distance_is_torchmetrics_and_that_of_the_formula(count: int) -> None:
    one, other = features(count, seed=0), features(count + 1, seed=1, shift=0.5)
    theirs = FrechetInceptionDistance(feature=AsTheyAre())
    theirs.update(one, real=True)
    theirs.update(other, real=False)
    ours = frechet_distance(sums_of(one), sums_of(other))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert ours == pytest.approx(by_the_formula(one, other), rel=1e-5)
    assert ours > 1


def by_the_formula(one: Tensor, other: Tensor) -> float:
    """Compute the distance with numpy and scipy as the FID's authors do."""
    first, second = np.cov(one.numpy(), rowvar=False), np.cov(other.numpy(), rowvar=False)
    shift = one.mean(dim=0) - other.mean(dim=0)
    with warnings.catch_warnings():
        # The product of so few images' covariances is singular: scipy says so on some processors,
        # and its root is right to 4e-9 all the same.
        warnings.filterwarnings("ignore", "Matrix is singular")
        root = np.real(scipy.linalg.sqrtm(first @ second))
    return float(shift @ shift) + float(np.trace(first + second - 2 * root))


def test_the_distance_of_many_features_is_that_of_few_images_alone() -> None:
    """With far fewer images than features, compare with a formula without any covariance.

    The trace of the root is the nuclear norm of A B^T for centred sets A and B. Nothing in it is
    nearly singular.
    """
    num_features = 256  # five times as many as there are images
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.rand(count, num_features, generator=generator).double() ** 3 * scale
        for count, scale in ((30, 1.0), (21, 1.3))
    )
    sums = [FeatureSums(num_features), FeatureSums(num_features)]
    for own, images in zip(sums, (one, other), strict=True):
        own.add(images)
    first, second = (
        (images - images.mean(dim=0)) / (len(images) - 1) ** 0.5 for images in (one, other)
    )
    shift = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    root = torch.linalg.svdvals(first @ second.T).sum()
    expected = shift + first.square().sum() + second.square().sum() - 2 * root
    assert frechet_distance(*sums) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("count", [5, 500])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    sums = sums_of(features(count, seed=0))
    # An eigenvalue of the product, at most largest^2, is off by D eps largest^2 at most; where it
    # should be 0, its root is off by the root of that. The distance has D such roots, doubled.
    largest = float(torch.linalg.eigvalsh(sums.covariance())[-1])
    rounding = 2 * FEATURES * (FEATURES * torch.finfo(torch.float64).eps) ** 0.5 * largest
    assert rounding < 1e-5 * float(sums.covariance().trace())
    assert 0 <= frechet_distance(sums, sums) < rounding


def test_a_distance_is_never_below_0_by_rounding() -> None:
    sets = [sums_of(features(3, seed=seed)) for seed in range(20)]
    distances = [frechet_distance(sums, sums) for sums in sets]
    assert min(distances) == 0
    assert math.copysign(1, min(distances)) == 1


def test_batches_do_not_show() -> None:
    one, other = features(100, seed=0), features(100, seed=1, shift=1)
    whole = frechet_distance(sums_of(one), sums_of(other))
    parts = sums_of(*one[:33].split(1), *one[33:].split(7))
    assert parts.count == 100
    assert frechet_distance(parts, sums_of(other)) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_images_have_no_covariance_and_no_distance(count: int) -> None:
    few, others = sums_of(features(count, seed=0)), sums_of(features(9, seed=0))
    for pair in ((few, others), (others, few), (few, few)):
        assert math.isnan(frechet_distance(*pair))
