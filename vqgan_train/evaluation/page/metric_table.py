"""The metric table, the summary tiles and the notes of the page, as text for its template."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    MIN_COMPARABLE_IMAGES,
    CheckpointResult,
    Difference,
    Evaluation,
    Summary,
)
from vqgan_train.evaluation.report.rows import CODEBOOK_METRICS
from vqgan_train.evaluation.report.text_table import group_size, group_title, infinite_notes

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
    """`better`, `worse`, `unclear` (the interval contains 0 or is unknown), or `plain` for a
    change without an interval, which is not judged."""

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
    """The better direction in words."""

    cells: list[Cell]


class Group(NamedTuple):
    """Metrics of the same images or faces."""

    title: str
    lines: list[Line]


class Tile(NamedTuple):
    """One number of the summary at the top of the page."""

    label: str
    cell: Cell


def make_groups(evaluation: Evaluation) -> list[Group]:
    """Return all groups of the table; the tokens of all images come last."""
    groups = []
    for name in evaluation.checkpoints[0].summaries:
        title = f"{group_title(name)}: {group_size(evaluation, name)}"
        lines = [*_metric_lines(evaluation, name), *_rfid_lines(evaluation, name)]
        groups.append(Group(title, lines))
    tokens = [_line(metric, _codebook_cells(evaluation, metric)) for metric in CODEBOOK_METRICS]
    codes = len(evaluation.checkpoints[0].codebook.usage)
    return [*groups, Group(f"tokens of all images: {codes:,} codes", tokens)]


def make_tiles(evaluation: Evaluation) -> list[Tile]:
    """Return the last checkpoint's metrics of all images and of faces."""
    last = evaluation.checkpoints[-1]
    return [
        Tile(label(metric), _cell(evaluation, group, metric, last))
        for group in (ALL, FACE_BOXES)
        for metric in last.summaries.get(group, {})
    ]


def make_notes(evaluation: Evaluation) -> list[str]:
    """Return the notes below the table."""
    notes = [
        f"Means with 95 % bootstrap intervals, which need at least two images; {UNDEFINED} means "
        "undefined."
    ]
    if len(evaluation.checkpoints) > 1:
        notes.append(
            f"Changes are against {evaluation.checkpoints[0].name}, image by image (or face by "
            "face), with 95 % bootstrap intervals. A change is unclear if its interval contains 0 "
            "or is unknown."
        )
    notes += infinite_notes(evaluation)
    distances = [d for checkpoint in evaluation.checkpoints for d in checkpoint.rfid.values()]
    if distances:
        notes.append(
            f"rFID is by {distances[0].evaluator}; it is not comparable with rFIDs of others."
        )
    notes += [f"{label(metric)} is by {by}." for metric, by in evaluation.evaluators.items()]
    if any(not distance.comparable for distance in distances):
        notes.append(
            f"An rFID of fewer than {MIN_COMPARABLE_IMAGES:,} images is comparable within this "
            "table, and with no other number."
        )
    return notes


def _metric_lines(evaluation: Evaluation, group: str) -> Iterator[Line]:
    for metric in evaluation.checkpoints[0].summaries[group]:
        cells = [_cell(evaluation, group, metric, c) for c in evaluation.checkpoints]
        yield _line(metric, cells)


def _rfid_lines(evaluation: Evaluation, group: str) -> Iterator[Line]:
    if not any(group in checkpoint.rfid for checkpoint in evaluation.checkpoints):
        return
    cells = []
    first = evaluation.checkpoints[0].rfid.get(group)
    for checkpoint in evaluation.checkpoints:
        distance = checkpoint.rfid.get(group)
        if distance is None:
            cells.append(Cell("", remark="left out"))
            continue
        remark = f"N = {distance.count:,}{'' if distance.comparable else ', comparable here only'}"
        change = (
            None
            if first is None or distance is first
            else _plain_change("rfid", distance.value - first.value)
        )
        cells.append(Cell(number("rfid", distance.value), remark=remark, change=change))
    yield _line("rfid", cells)


def _codebook_cells(evaluation: Evaluation, metric: str) -> list[Cell]:
    first, *later = (float(getattr(c.codebook, metric)) for c in evaluation.checkpoints)
    return [Cell(number(metric, first))] + [
        Cell(number(metric, value), change=_plain_change(metric, value - first)) for value in later
    ]


def _plain_change(metric: str, change: float) -> Change:
    """Return a change without an interval, which is not judged."""
    return Change(number(metric, change, sign="+"), "", "plain", "")


def _line(metric: str, cells: Sequence[Cell]) -> Line:
    direction = "more is better" if METRICS[metric].higher_is_better else "less is better"
    return Line(label(metric), direction, list(cells))


def _cell(evaluation: Evaluation, group: str, metric: str, checkpoint: CheckpointResult) -> Cell:
    summary = checkpoint.summaries[group].get(metric)
    if summary is None:
        return Cell("", remark="left out")
    place = (checkpoint.name, group, metric)
    changes = (
        _change(difference)
        for difference in evaluation.differences
        if (difference.after, difference.group, difference.metric) == place
    )
    return Cell(_mean(metric, summary), interval(metric, summary), change=next(changes, None))


def _mean(metric: str, summary: Summary) -> str:
    if not summary.count:
        return number(metric, float("inf" if summary.num_infinite else "nan"))
    return number(metric, summary.mean)


def _change(difference: Difference) -> Change:
    metric, change = difference.metric, difference.change
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
