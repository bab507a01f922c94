"""Means of groups, and paired differences of checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    WITH_FACE,
    CheckpointResult,
    Floats,
)
from vqgan_train.evaluation.report.summaries import differences_of, summaries_of

RESAMPLES = 200
FOUND = tiny_evaluation(images=40)
BEFORE, AFTER = FOUND.checkpoints


def with_values(values: dict[str, Floats]) -> CheckpointResult:
    return replace(BEFORE, values=values, face_values={})


def test_each_group_is_the_mean_of_its_images() -> None:
    summaries = summaries_of(AFTER.values, AFTER.face_values, FOUND.images, RESAMPLES)
    assert list(summaries) == [ALL, "people", WITH_FACE, FACE_BOXES]
    people = FOUND.images.slices["people"]
    assert summaries[ALL]["l1"].mean == pytest.approx(AFTER.values["l1"].mean())
    assert summaries["people"]["l1"].mean == pytest.approx(AFTER.values["l1"][people].mean())
    assert summaries["people"]["l1"].count == people.sum()
    faces = AFTER.face_values["face_psnr"]
    assert summaries[FACE_BOXES]["face_psnr"].mean == pytest.approx(faces.mean())


def test_a_difference_is_of_pairs() -> None:
    found = {(d.group, d.metric): d for d in differences_of(BEFORE, AFTER, FOUND.images, RESAMPLES)}
    change = AFTER.values["ssim"] - BEFORE.values["ssim"]
    ssim, l1 = found[ALL, "ssim"], found[ALL, "l1"]
    assert ssim.change.mean == pytest.approx(change.mean())
    assert ssim.share_better == pytest.approx((change > 0).mean())
    assert l1.share_better == pytest.approx((AFTER.values["l1"] < BEFORE.values["l1"]).mean())
    assert (ssim.before, ssim.after) == ("before", "after")


def test_pairs_are_surer_than_two_means() -> None:
    images, random = FOUND.images, np.random.default_rng(0)
    easy = random.normal(size=40)
    one = with_values({"l1": easy})
    other = with_values({"l1": easy - 0.1 + 0.01 * random.normal(size=40)})
    (change,) = (d for d in differences_of(one, other, images, RESAMPLES) if d.group == ALL)
    alone = summaries_of(one.values, {}, images, RESAMPLES)[ALL]["l1"]
    assert change.is_certain
    assert change.share_better == 1
    assert change.change.high - change.change.low < 0.1 * (alone.high - alone.low)


def test_two_infinite_psnrs_are_no_pair() -> None:
    inf = np.inf
    images = tiny_evaluation(images=4).images
    one = with_values({"psnr": np.array([inf, 20.0, inf, 20.0])})
    other = with_values({"psnr": np.array([inf, inf, 20.0, 21.0])})
    (psnr,) = (d for d in differences_of(one, other, images, RESAMPLES) if d.group == ALL)
    assert (psnr.change.mean, psnr.change.count, psnr.change.num_infinite) == (1, 1, 2)
    assert psnr.share_better == pytest.approx(2 / 3)
