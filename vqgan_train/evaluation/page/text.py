"""Numbers as people read them."""

import math

from vqgan_train.evaluation.names import METRICS
from vqgan_train.evaluation.results import Summary

MINUS, INFINITE, NOTHING = "\N{MINUS SIGN}", "\N{INFINITY}", "\N{EN DASH}"


def number(metric: str, value: float, *, sign: str = "") -> str:
    """A value with its metric's decimals; `sign` is "+" for changes."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return INFINITE if value > 0 else f"{MINUS}{INFINITE}"
    # z: what rounds to zero has no sign.
    return f"{value:{sign}z,.{METRICS[metric].decimals}f}".replace("-", MINUS)


def interval(metric: str, summary: Summary, *, sign: str = "") -> str:
    """From where to where; a dash where it takes more images, nothing without a finite mean."""
    if not summary.count or not math.isfinite(summary.mean):
        return ""
    if math.isnan(summary.low + summary.high):
        return NOTHING
    low, high = (number(metric, value, sign=sign) for value in (summary.low, summary.high))
    return f"{low} to {high}"


def label(metric: str) -> str:
    """Name and unit."""
    shown = METRICS[metric]
    return f"{shown.label} ({shown.unit})" if shown.unit else shown.label
