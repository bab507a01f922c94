"""The Frechet distance from sums: torchmetrics' value, whatever the batches."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from vqgan_train.evaluation.frechet import FeatureSums, frechet_distance

FEATURES = 12


class AsTheyAre(nn.Module):
    """Takes features for images, so that torchmetrics does its sums on ours."""

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


@pytest.mark.parametrize("count", [5, 500], ids=["fewer images than features", "more"])
def test_the_distance_is_torchmetrics(count: int) -> None:
    one, other = features(count, seed=0), features(count + 1, seed=1, shift=0.5)
    theirs = FrechetInceptionDistance(feature=AsTheyAre())
    theirs.update(one, real=True)
    theirs.update(other, real=False)
    ours = frechet_distance(sums_of(one), sums_of(other))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert ours > 1


def test_a_set_is_at_no_distance_from_itself() -> None:
    for count in (5, 500):
        sums = sums_of(features(count, seed=0))
        assert abs(frechet_distance(sums, sums)) < 1e-5


def test_batches_do_not_show() -> None:
    one, other = features(100, seed=0), features(100, seed=1, shift=1)
    whole = frechet_distance(sums_of(one), sums_of(other))
    parts = sums_of(*one[:33].split(1), *one[33:].split(7))
    assert parts.count == 100
    assert frechet_distance(parts, sums_of(other)) == pytest.approx(whole, rel=1e-9)


def test_one_image_has_no_covariance() -> None:
    one, others = sums_of(features(1, seed=0)), sums_of(features(9, seed=0))
    assert math.isnan(frechet_distance(one, others))
