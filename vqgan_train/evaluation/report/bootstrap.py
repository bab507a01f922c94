"""Bootstrap-t intervals of means (Efron and Tibshirani 1993, section 12.5), fixed by a seed.

The bootstrap estimates how far a mean of N images is from the true one in units of its own standard
error. Percentiles of the resampled means themselves make intervals that are too narrow for few
images, and for values with a long tail: docs/evaluation.md has the measured coverage.

Letters: N images, F rows (images, or faces in them), M columns (metrics of a checkpoint, or
changes of metrics), R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.results import Floats, Summary

LEVEL = 95.0
"""Percentage of the intervals that contain the true mean, if there are many images."""

COUNTS_AT_ONCE = 2**21
"""Maximum elements of a block of resamples, 16 MB, unless one resample (N elements) is larger."""

SEED = 0

MIN_IMAGES = 10
"""Minimum images for an interval; with fewer, it would often miss the true mean."""

ROUNDING = 1e-12
"""Relative error by which equal numbers may differ after sums over all images."""


def summarise(
    values: Floats, images: NDArray[np.int64], *, resamples: int, seed: int = SEED
) -> list[Summary]:
    """Compute the mean of each column of values, and its interval.

    All columns share their resamples, so that intervals of checkpoints are comparable. Images are
    resampled together with all their faces: faces of one photo share its light and sharpness, so
    intervals of faces resampled one by one would be too narrow.

    Args:
        values: (F, M). NaN means undefined and is ignored. Infinities are counted but not averaged;
            if a column has only infinities, and all of one sign, that infinity is its mean.
        images: (F,) image of each row of the values.
        resamples: number of resamples, R.
        seed: the same values, seed and R give the same intervals.

    Returns:
        M summaries; low and high are NaN where fewer than `MIN_IMAGES` images have a finite value,
        and where so few images differ from the others that many resamples have none of them.
    """
    finite = np.isfinite(values)
    unique_images, rows = np.unique(images, return_inverse=True)
    sums = np.zeros((len(unique_images), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, rows, np.where(finite, values, 0))
    np.add.at(counts, rows, finite)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums.sum(axis=0) / counts.sum(axis=0)
        residuals = sums - means * counts
        residuals[np.abs(residuals) <= ROUNDING * np.abs(means * counts)] = 0
        lows, highs = _intervals(means, residuals, counts, resamples, seed)
    is_known = np.count_nonzero(counts, axis=0) >= MIN_IMAGES
    bounds = np.where(is_known & np.isfinite(lows + highs), [lows, highs], np.nan)
    return [_summary(*columns) for columns in zip(counts.T, values.T, means, *bounds, strict=True)]


def _summary(counts: Floats, values: Floats, mean: float, low: float, high: float) -> Summary:
    count, infinite = int(counts.sum()), values[np.isinf(values)]
    if not count:
        mean = infinite[0] if len(set(infinite.tolist())) == 1 else np.nan
    return Summary(
        mean=float(mean), low=float(low), high=float(high), count=count, num_infinite=len(infinite)
    )


def _intervals(
    means: Floats, residuals: Floats, counts: Floats, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the bounds, (M,) each, from residuals (N, M): each image's sum less its share."""
    terms = [residuals, counts, residuals**2, residuals * counts, counts**2]
    drawn = np.split(_resampled_sums(np.hstack(terms), resamples, seed), len(terms), axis=1)
    deviations = drawn[0] / drawn[1]  # NaN if the metric is undefined for all images of a resample
    # The variance of a ratio of sums, such as a mean over the faces of images, by its residuals.
    squares = drawn[2] - 2 * deviations * drawn[3] + deviations**2 * drawn[4]
    squares[squares <= ROUNDING * drawn[2]] = 0  # a resample of equal values
    ratios = np.where(deviations == 0, 0, deviations / (np.sqrt(squares) / drawn[1]))
    ratios[:, np.isnan(ratios).all(axis=0)] = np.inf  # no resample has a mean: not known either
    tail = (100 - LEVEL) / 2
    upper, lower = (np.nanpercentile(ratios, q, axis=0) for q in (100 - tail, tail))
    error = np.sqrt((residuals**2).sum(axis=0)) / counts.sum(axis=0)
    return means - upper * error, means - lower * error


def _resampled_sums(terms: Floats, resamples: int, seed: int) -> Floats:
    """Return the sums (R, C) of terms (N, C) over N images drawn with replacement."""
    num_images = len(terms)
    if not num_images:
        return np.zeros((resamples, terms.shape[1]))
    random = np.random.default_rng(seed)
    rows = max(1, COUNTS_AT_ONCE // num_images)
    blocks = []
    for first in range(0, resamples, rows):
        drawn = min(rows, resamples - first)
        # Count how often each image is drawn; a matrix product then sums all columns at once.
        choices = random.integers(0, num_images, (drawn, num_images))
        choices += np.arange(drawn)[:, None] * num_images
        times = np.bincount(choices.ravel(), minlength=drawn * num_images)
        weights = times.reshape(drawn, num_images).astype(np.float64)
        blocks.append(weights @ terms)
    return np.concatenate(blocks)
