"""Formats an evaluation as lines of text of at most 100 characters."""

import math
from collections.abc import Iterator, Sequence
from textwrap import wrap

from vqgan_train.evaluation.report.bootstrap import MIN_IMAGES
from vqgan_train.evaluation.report.evaluation_folder import JSON_FILE
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    MIN_COMPARABLE_IMAGES,
    WITH_FACE,
    DatasetFacts,
    Difference,
    Evaluation,
    LeftOut,
    SetDistance,
    Summary,
)
from vqgan_train.evaluation.report.table import TOKENS, group_size, group_title, table_rows

WIDTH = 100
LABEL_WIDTH, VALUE_WIDTH, CHANGE_WIDTH = 22, 24, 27
"""Widths of the columns; a label, two checkpoints and their difference take 97 characters."""

UNKNOWN = "(-)"
"""Printed for an unknown interval."""

MAX_NAMED = 5
"""Maximum number of images or shards named per kind of damage."""


def table_lines(evaluation: Evaluation) -> list[str]:
    """Return the table, in which each later checkpoint has a block beside the first one."""
    lines = [*_dataset_lines(evaluation)]
    for index in range(1, len(evaluation.checkpoints)):
        lines += _block(evaluation, [0, index])
    if len(evaluation.checkpoints) == 1:
        lines += _block(evaluation, [0])
    lines += _notes(evaluation, has_unknown_intervals=any(UNKNOWN in line for line in lines))
    lines += _damage(evaluation.dataset)
    return lines


def _dataset_lines(evaluation: Evaluation) -> Iterator[str]:
    facts = evaluation.dataset
    given = ", ".join(facts.given)
    yield (
        f"{facts.num_images:,} images of {given if len(given) < 40 else given[:37] + '...'}, "
        f"{facts.image_size} x {facts.image_size} pixels, range {facts.pixel_range}"
    )
    if facts.faces_looked_for and facts.num_images:
        images = int(evaluation.images.slices[WITH_FACE].sum())
        yield (
            f"{len(evaluation.images.face_images):,} faces in {images:,} images, "
            f"{images / facts.num_images:.1%} of all"
        )


def _block(evaluation: Evaluation, shown: Sequence[int]) -> Iterator[str]:
    """Yield the table of one checkpoint, or of two and the changes of the second."""
    names = [_shorten(evaluation.checkpoints[index].name) for index in shown]
    yield ""
    yield _padded("", [*names, "change"] if len(shown) == 2 else names)
    for group, rows in table_rows(evaluation).items():
        size = "" if group == TOKENS else f", {group_size(evaluation, group)}"
        yield f"{group_title(group)}{size}"
        for row in rows:
            cells = [_cell(row.metric, row.values[index]) for index in shown]
            change = row.changes[shown[-1]]
            if change is not None:
                cells.append(_cell(row.metric, change, sign="+"))
            label, unit, *_ = METRICS[row.metric]
            yield _padded(f"  {label}, {unit}" if unit else f"  {label}", cells)


def _cell(metric: str, value: Summary | SetDistance | Difference | float, *, sign: str = "") -> str:
    if isinstance(value, Difference):
        return _cell(metric, value.change, sign=sign)
    if isinstance(value, Summary):
        return _interval(metric, value, sign=sign)
    if isinstance(value, SetDistance):
        mark = "" if value.comparable else " *"
        return f"{_number(metric, value.value)} (N = {value.count:,}{mark})" if value.count else "-"
    return _number(metric, value, sign=sign)


def _notes(evaluation: Evaluation, *, has_unknown_intervals: bool) -> Iterator[str]:
    yield ""
    yield "Means with 95 % bootstrap intervals; a change is of the same images, one by one."
    yield "uniform: expected of as many tokens, each drawn from all codes with equal chances."
    if has_unknown_intervals:
        yield f"{UNKNOWN}: no interval, which needs finite values of at least {MIN_IMAGES} images."
    for note in (*evaluator_notes(evaluation), *infinite_notes(evaluation)):
        yield from _wrapped(note)
    yield from left_out_lines(evaluation.left_out)


def evaluator_notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield a note for each network that measured, and one for rFIDs of few images."""
    distances = [d for checkpoint in evaluation.checkpoints for d in checkpoint.rfid.values()]
    if distances:
        yield f"rFID by {distances[0].evaluator}. Another network gives other rFIDs."
    for metric, evaluator in evaluation.evaluators.items():
        yield f"{METRICS[metric].label} by {evaluator}."
    if any(0 < distance.count < MIN_COMPARABLE_IMAGES for distance in distances):
        yield (
            f"* of fewer than {MIN_COMPARABLE_IMAGES:,} images: comparable within this table, and "
            "with no other number."
        )


def infinite_notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield a note for each mean that leaves out infinite values."""
    for checkpoint in evaluation.checkpoints:
        for group, summaries in checkpoint.summaries.items():
            for metric, summary in summaries.items():
                if summary.num_infinite and summary.count:
                    yield (
                        f"{METRICS[metric].label} of {checkpoint.name}, {group_title(group)}: "
                        f"{summary.num_infinite:,} infinite (identical pixels), not in the mean."
                    )


def left_out_lines(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Yield what was not measured or drawn, with the reasons."""
    for left in left_out:
        label = METRICS[left.metric].label if left.metric in METRICS else left.metric
        yield from _wrapped(f"left out: {label}: {left.reason}")


def _wrapped(note: str) -> list[str]:
    return wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _damage(facts: DatasetFacts) -> Iterator[str]:
    for names, damage in (
        (facts.unreadable, "images could not be read"),
        (facts.dead_shards, "shards hold nothing that could be read"),
        (facts.damaged_shards, "shards have lost samples"),
    ):
        if names:
            yield f"{len(names):,} {damage}:"
            yield from (f"  {name}"[:WIDTH] for name in names[:MAX_NAMED])
            more = len(names) - MAX_NAMED
            yield from [f"  and {more:,} more, by name in {JSON_FILE}"] * (more > 0)


def _padded(label: str, cells: Sequence[str]) -> str:
    widths = [VALUE_WIDTH, VALUE_WIDTH, CHANGE_WIDTH]
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return (label.ljust(LABEL_WIDTH) + "".join(padded)).rstrip()


def _interval(metric: str, summary: Summary, *, sign: str) -> str:
    mean = _number(metric, summary.mean, sign=sign)
    if not summary.count:
        return mean
    if not summary.has_interval:
        return f"{mean} {UNKNOWN}"
    low, high = (_number(metric, value, sign=sign) for value in (summary.low, summary.high))
    return f"{mean} ({low}, {high})"


def _number(metric: str, value: float, *, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return METRICS[metric].format(value, sign=sign)


def _shorten(name: str) -> str:
    return name if len(name) < VALUE_WIDTH else f"{name[: VALUE_WIDTH - 5]}..."
