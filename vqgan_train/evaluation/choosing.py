"""Which pictures to keep for people to look at."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.names import IMAGE_METRICS
from vqgan_train.evaluation.results import Floats, ImageTable
from vqgan_train.evaluation.summaries import Measured


def choose_pictures(
    images: ImageTable, measured: Sequence[Measured], *, each: int
) -> dict[int, tuple[str, ...]]:
    """Choose rows: some fixed, with faces, the best and worst, those that changed most.

    Args:
        images: all that there are.
        measured: of each checkpoint. Best and worst are the last one's.
        each: pictures for each reason.

    Returns:
        The reasons, as KeptPicture has them, by row, ascending.
    """
    reasons: dict[str, NDArray[np.int64]] = {
        "fixed": _spread(np.arange(len(images.keys)), each),
        "face": _spread(np.unique(images.face_images), each),
    }
    first, last = measured[0], measured[-1]
    for metric, values in last.values.items():
        good = values if IMAGE_METRICS[metric].higher_is_better else -values
        reasons |= _ends(good, f"best {metric}", f"worst {metric}", each)
        if first is not last:
            sign = 1 if IMAGE_METRICS[metric].higher_is_better else -1
            with np.errstate(invalid="ignore"):
                change = sign * (values - first.values[metric])
            gained, lost = (np.where(side, change, np.nan) for side in (change > 0, change < 0))
            reasons[f"gained {metric}"] = _ends(gained, "most", "least", each)["most"]
            reasons[f"lost {metric}"] = _ends(lost, "least", "most", each)["most"]
    return _by_row(reasons)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Some rows at equal distances: neighbours in a shard may be alike."""
    return rows[np.arange(min(count, len(rows))) * len(rows) // max(1, min(count, len(rows)))]


def _ends(good: Floats, best: str, worst: str, count: int) -> dict[str, NDArray[np.int64]]:
    order = np.argsort(good, kind="stable")
    order = order[~np.isnan(good[order])]
    return {best: order[::-1][:count], worst: order[:count]}


def _by_row(reasons: Mapping[str, NDArray[np.int64]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for reason, rows in reasons.items():
        for row in rows.tolist():
            found[row] = (*found.get(row, ()), reason)
    return dict(sorted(found.items()))
