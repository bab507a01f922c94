"""Percentile bootstrap intervals of means (Efron 1979), reproducible by a seed.

Letters: N images, F rows (images, or faces in them), M columns (metrics of a checkpoint, or
changes of metrics), R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.results import Floats, Summary

LEVEL = 95.0
"""Percentage of the resampled means inside an interval."""

COUNTS_AT_ONCE = 2**21
"""Maximum elements of a block of resamples, 16 MB, unless one resample (N elements) is larger."""

SEED = 0

MIN_IMAGES = 2
"""Minimum images for an interval, because every resample of one image is that image."""


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
        M summaries; low and high are NaN where fewer than `MIN_IMAGES` have a finite value.
    """
    finite = np.isfinite(values)
    unique_images, rows = np.unique(images, return_inverse=True)
    sums = np.zeros((len(unique_images), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, rows, np.where(finite, values, 0))
    np.add.at(counts, rows, finite)
    means = _resampled_means(sums, counts, resamples, seed)
    return [_summary(*columns) for columns in zip(sums.T, counts.T, values.T, means.T, strict=True)]


def _summary(sums: Floats, counts: Floats, values: Floats, resampled: Floats) -> Summary:
    count, infinite = int(counts.sum()), values[np.isinf(values)]
    if count:
        mean = float(sums.sum() / count)
    else:
        mean = float(infinite[0]) if len(set(infinite.tolist())) == 1 else np.nan
    # The mean of a resample is NaN if the metric is undefined for all its images.
    means = resampled[~np.isnan(resampled)]
    low = high = np.nan
    if np.count_nonzero(counts) >= MIN_IMAGES and len(means):
        tail = (100 - LEVEL) / 2
        low, high = np.percentile(means, [tail, 100 - tail]).tolist()
    return Summary(mean=mean, low=low, high=high, count=count, num_infinite=len(infinite))


def _resampled_means(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """Return the means (R, M) of N images drawn with replacement."""
    num_images = len(sums)
    if not num_images:
        return np.full((resamples, sums.shape[1]), np.nan)
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
        with np.errstate(invalid="ignore"):
            blocks.append((weights @ sums) / (weights @ counts))
    return np.concatenate(blocks)
