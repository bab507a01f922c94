"""Numbers as people read them."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    COMPARABLE_FROM,
    FACE_BOXES,
    CheckpointResult,
    Difference,
    Evaluation,
    Summary,
)
from vqgan_train.evaluation.report.rows import CODEBOOK_METRICS
from vqgan_train.evaluation.report.text_table import TITLES

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


class Change(NamedTuple):
    """What became of a metric between the first checkpoint and another."""

    text: str
    interval: str
    verdict: str
    """`better`, `worse`, or `unclear`: the interval holds 0 or is none. `plain` where there is no
    change to judge."""

    share_better: str
    """Of the images or faces, in percent; empty where it is not of single ones."""


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
    """Which way is better, in words."""

    cells: list[Cell]


class Group(NamedTuple):
    """What is measured of the same images or faces."""

    title: str
    lines: list[Line]


class Tile(NamedTuple):
    """One number of the summary on top."""

    label: str
    cell: Cell


def make_groups(found: Evaluation) -> list[Group]:
    """All groups, and the tokens of all images last."""
    sizes = found.group_sizes()
    groups = []
    for name in found.checkpoints[0].summaries:
        noun = "faces" if name == FACE_BOXES else "images"
        title = f"{TITLES.get(name, f'slice {name}')}: {sizes[name]:,} {noun}"
        groups.append(Group(title, [*_measured(found, name), *_distances(found, name)]))
    tokens = [_line(metric, _token_cells(found, metric)) for metric in CODEBOOK_METRICS]
    codes = len(found.checkpoints[0].codebook.usage)
    return [*groups, Group(f"tokens of all images: {codes:,} codes", tokens)]


def make_tiles(found: Evaluation) -> list[Tile]:
    """What the last checkpoint is worth: metrics of all images and of faces."""
    tiles = []
    for group in (ALL, FACE_BOXES):
        for metric in found.checkpoints[-1].summaries.get(group, {}):
            cell = _cell(found, group, metric, found.checkpoints[-1])
            tiles.append(Tile(label(metric), cell))
    return tiles


def make_notes(found: Evaluation) -> list[str]:
    """What has to be known to read the table."""
    notes = [
        "Means, with 95 % bootstrap intervals, which take two images at least; "
        f"{NOTHING} is what is not defined."
    ]
    if len(found.checkpoints) > 1:
        notes.append(
            f"Changes are against {found.checkpoints[0].name}, image by image (or face by face), "
            "with 95 % bootstrap intervals; one that holds 0, or is not there, makes it unclear."
        )
    for checkpoint in found.checkpoints:
        for group, summaries in checkpoint.summaries.items():
            notes += [
                f"{label(metric)} of {checkpoint.name}, {TITLES.get(group, group)}: "
                f"{summary.num_infinite:,} infinite (identical pixels), not in the mean."
                for metric, summary in summaries.items()
                if summary.num_infinite and summary.count
            ]
    distances = [d for checkpoint in found.checkpoints for d in checkpoint.rfid.values()]
    if distances:
        notes.append(f"rFID is by {distances[0].evaluator}; numbers of others do not compare.")
    notes += [f"{label(metric)} is by {by}." for metric, by in found.evaluators.items()]
    if any(not distance.comparable for distance in distances):
        notes.append(
            f"An rFID of fewer than {COMPARABLE_FROM:,} images is comparable within this table, "
            "and with no other number."
        )
    return notes


def _measured(found: Evaluation, group: str) -> Iterator[Line]:
    for metric in found.checkpoints[0].summaries[group]:
        yield _line(metric, [_cell(found, group, metric, c) for c in found.checkpoints])


def _distances(found: Evaluation, group: str) -> Iterator[Line]:
    if not any(group in checkpoint.rfid for checkpoint in found.checkpoints):
        return
    cells = []
    first = found.checkpoints[0].rfid.get(group)
    for checkpoint in found.checkpoints:
        distance = checkpoint.rfid.get(group)
        if distance is None:
            cells.append(Cell("", remark="left out"))
            continue
        remark = f"N = {distance.count:,}{'' if distance.comparable else ', comparable here only'}"
        change = (
            None
            if first is None or distance is first
            else _point_change("rfid", distance.value - first.value)
        )
        cells.append(Cell(number("rfid", distance.value), remark=remark, change=change))
    yield _line("rfid", cells)


def _token_cells(found: Evaluation, metric: str) -> list[Cell]:
    values = [float(getattr(checkpoint.codebook, metric)) for checkpoint in found.checkpoints]
    return [
        Cell(
            number(metric, value),
            change=_point_change(metric, value - values[0]) if place else None,
        )
        for place, value in enumerate(values)
    ]


def _point_change(metric: str, change: float) -> Change:
    """A change that no interval belongs to, so nothing is said of how sure it is."""
    return Change(number(metric, change, sign="+"), "", "plain", "")


def _line(metric: str, cells: Sequence[Cell]) -> Line:
    direction = "more is better" if METRICS[metric].higher_is_better else "less is better"
    return Line(label(metric), direction, list(cells))


def _cell(found: Evaluation, group: str, metric: str, checkpoint: CheckpointResult) -> Cell:
    summary = checkpoint.summaries[group].get(metric)
    if summary is None:
        return Cell("", remark="left out")
    changes = [
        _change(difference)
        for difference in found.differences
        if (difference.after, difference.group, difference.metric)
        == (checkpoint.name, group, metric)
    ]
    return Cell(
        _mean(metric, summary), interval(metric, summary), change=changes[0] if changes else None
    )


def _mean(metric: str, summary: Summary) -> str:
    if not summary.count:
        return number(metric, float("inf" if summary.num_infinite else "nan"))
    return number(metric, summary.mean)


def _change(difference: Difference) -> Change:
    metric, change = difference.metric, difference.change
    if math.isnan(change.mean):
        return Change(NOTHING, "", "plain", "")
    verdict = "unclear"
    if difference.is_certain:
        grew = change.mean > 0
        verdict = "better" if grew == METRICS[metric].higher_is_better else "worse"
    return Change(
        number(metric, change.mean, sign="+"),
        interval(metric, change, sign="+"),
        verdict,
        NOTHING if math.isnan(difference.share_better) else f"{difference.share_better:.0%}",
    )
