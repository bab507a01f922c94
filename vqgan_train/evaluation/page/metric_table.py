"""The metric table, the summary tiles and the notes of the page, as text for its template."""

import math
from typing import NamedTuple

from vqgan_train.evaluation.report.bootstrap import MIN_IMAGES
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    Difference,
    Evaluation,
    SetDistance,
    Summary,
)
from vqgan_train.evaluation.report.table import Row, group_size, group_title, table_rows
from vqgan_train.evaluation.report.text_table import evaluator_notes, infinite_notes

MINUS, INFINITE, UNDEFINED = "\N{MINUS SIGN}", "\N{INFINITY}", "\N{EN DASH}"


def number(metric: str, value: float, *, sign: str = "") -> str:
    """Format a value; `sign` is "+" for changes."""
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return INFINITE if value > 0 else f"{MINUS}{INFINITE}"
    return METRICS[metric].format(value, sign=sign).replace("-", MINUS)


def interval(metric: str, summary: Summary, *, sign: str = "") -> str:
    """Format an interval: a dash if it is unknown, empty if there is no finite mean."""
    if not summary.count or not math.isfinite(summary.mean):
        return ""
    if not summary.has_interval:
        return UNDEFINED
    low, high = (number(metric, value, sign=sign) for value in (summary.low, summary.high))
    return f"{low} to {high}"


def label(metric: str) -> str:
    """Return the name of a metric with its unit."""
    name, unit, *_ = METRICS[metric]
    return f"{name} ({unit})" if unit else name


class Change(NamedTuple):
    """Change of a metric from the first checkpoint to another."""

    text: str
    interval: str
    verdict: str
    """`better`, `worse`, `unclear` (the interval contains 0 or is unknown), or `plain`: the change
    is undefined, or its metric has no intervals, so it is not judged."""

    share_better: str
    """Percentage of improved images or faces; empty for metrics of the whole set."""


class Cell(NamedTuple):
    """One metric of one checkpoint."""

    mean: str
    interval: str = ""
    remark: str = ""
    change: Change | None = None


class Line(NamedTuple):
    """One metric of all checkpoints."""

    label: str
    direction: str
    """The better direction in words; empty if neither is."""

    cells: list[Cell]


class Group(NamedTuple):
    """Metrics of the same images or faces."""

    title: str
    lines: list[Line]


def make_groups(evaluation: Evaluation) -> list[Group]:
    """Return all groups of the table; the group of token metrics is last."""
    return [
        Group(
            f"{group_title(group)}: {group_size(evaluation, group)}", [_line(row) for row in rows]
        )
        for group, rows in table_rows(evaluation).items()
    ]


def make_tiles(evaluation: Evaluation) -> list[Line]:
    """Return the lines whose last cells are the summary at the top of the page."""
    table = table_rows(evaluation)
    return [
        _line(row)
        for group in (ALL, FACE_BOXES)
        for row in table.get(group, [])
        if row.metric != "rfid"
    ]


def make_notes(evaluation: Evaluation) -> list[str]:
    """Return the notes below the table."""
    notes = [
        f"Means with 95 % bootstrap intervals, which need at least {MIN_IMAGES} images; "
        f"{UNDEFINED} means undefined."
    ]
    if len(evaluation.checkpoints) > 1:
        notes.append(
            f"Changes are against {evaluation.checkpoints[0].name}, image by image (or face by "
            "face), with 95 % bootstrap intervals. A change is unclear if its interval contains 0 "
            "or is unknown."
        )
    return [*notes, *infinite_notes(evaluation), *evaluator_notes(evaluation)]


def _line(row: Row) -> Line:
    better = METRICS[row.metric].higher_is_better
    direction = "" if better is None else "more is better" if better else "less is better"
    cells = [
        _cell(row.metric, value, None if change is None else _change(row.metric, change))
        for value, change in zip(row.values, row.changes, strict=True)
    ]
    return Line(label(row.metric), direction, cells)


def _cell(metric: str, value: Summary | SetDistance | float, change: Change | None) -> Cell:
    if isinstance(value, Summary):
        return Cell(number(metric, value.mean), interval(metric, value), change=change)
    if isinstance(value, SetDistance):
        remark = f"N = {value.count:,}{'' if value.comparable else ' *'}"
        return Cell(number(metric, value.value), remark=remark, change=change)
    return Cell(number(metric, value), change=change)


def _change(metric: str, difference: Difference | float) -> Change:
    if not isinstance(difference, Difference):
        return Change(number(metric, difference, sign="+"), "", "plain", "")
    change = difference.change
    if math.isnan(change.mean):
        return Change(UNDEFINED, "", "plain", "")
    verdict = "unclear"
    if difference.is_certain:
        is_increase = change.mean > 0
        verdict = "better" if is_increase == METRICS[metric].higher_is_better else "worse"
    return Change(
        number(metric, change.mean, sign="+"),
        interval(metric, change, sign="+"),
        verdict,
        UNDEFINED if math.isnan(difference.share_better) else f"{difference.share_better:.0%}",
    )
