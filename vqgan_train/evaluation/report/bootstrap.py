"""How sure a mean is: percentile intervals of the bootstrap (Efron 1979), seeded.

Letters: N images, M columns (metrics of checkpoints, or differences of two), R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.results import Floats, Summary

LEVEL = 95.0
"""Per cent of the resampled means that lie inside of an interval."""

COUNTS_AT_ONCE = 2**21
"""Numbers of a block of resamples: 16 MB, whatever N is."""

FEWEST_IMAGES = 2
"""Of which an interval can be drawn: every resample of one image is that image."""


def summarise(values: Floats, *, resamples: int, seed: int) -> list[Summary]:
    """Means and intervals of columns over the same images.

    All columns share their resamples, so intervals of two checkpoints may be compared.

    Args:
        values: (N, M). NaN is undefined and left out of its column. So is an infinity, which is
            counted; it is the mean only where there is nothing else.
        resamples: R.
        seed: draws them. The same values, seed and R give the same intervals.

    Returns:
        M summaries; low and high are NaN where fewer than `FEWEST_IMAGES` have a finite value.
    """
    finite = np.isfinite(values)
    return _summaries(
        np.where(finite, values, 0), finite.astype(np.float64), values, resamples, seed
    )


def summarise_by_image(
    values: Floats, images: NDArray[np.int64], *, resamples: int, seed: int
) -> list[Summary]:
    """As `summarise`, of values that belong together: those of an image are drawn together.

    Faces of one photo share its light and sharpness. Drawn by themselves, they would make the
    intervals too narrow.

    Args:
        values: (F, M).
        images: (F,) which of them belong together.
        resamples: R.
        seed: draws them.
    """
    finite = np.isfinite(values)
    different, places = np.unique(images, return_inverse=True)
    sums = np.zeros((len(different), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, places, np.where(finite, values, 0))
    np.add.at(counts, places, finite)
    return _summaries(sums, counts, values, resamples, seed)


def _summaries(
    sums: Floats, counts: Floats, values: Floats, resamples: int, seed: int
) -> list[Summary]:
    drawn = _resampled_means(sums, counts, resamples, seed)
    return [
        _summary(sums[:, place], counts[:, place], values[:, place], drawn[:, place])
        for place in range(values.shape[1])
    ]


def _summary(sums: Floats, counts: Floats, values: Floats, drawn: Floats) -> Summary:
    count, infinite = int(counts.sum()), values[np.isinf(values)]
    if count:
        mean = float(sums.sum() / count)
    else:
        mean = float(infinite[0]) if len(set(infinite.tolist())) == 1 else np.nan
    low, high = _interval(drawn) if np.count_nonzero(counts) >= FEWEST_IMAGES else (np.nan, np.nan)
    return Summary(mean=mean, low=low, high=high, count=count, num_infinite=len(infinite))


def _interval(drawn: Floats) -> tuple[float, float]:
    # A resample may have drawn no image for which the metric is defined.
    means = drawn[~np.isnan(drawn)]
    if not len(means):
        return np.nan, np.nan
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail]).tolist()
    return low, high


def _resampled_means(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """(R, M) means of images drawn with replacement, as many as there are."""
    num_images = len(sums)
    if not num_images:
        return np.full((resamples, sums.shape[1]), np.nan)
    random = np.random.default_rng(seed)
    rows = max(1, COUNTS_AT_ONCE // num_images)
    blocks = []
    for first in range(0, resamples, rows):
        drawn = min(rows, resamples - first)
        # How often each image is drawn: one matrix product then makes the sums of all columns.
        choices = random.integers(0, num_images, (drawn, num_images))
        choices += np.arange(drawn)[:, None] * num_images
        times = np.bincount(choices.ravel(), minlength=drawn * num_images)
        weights = times.reshape(drawn, num_images).astype(np.float64)
        with np.errstate(invalid="ignore"):
            blocks.append((weights @ sums) / (weights @ counts))
    return np.concatenate(blocks)
