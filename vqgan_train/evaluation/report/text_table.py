"""An evaluation as lines of text, no wider than 100 characters."""

import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from vqgan_train.evaluation.report.evaluation_folder import JSON_FILE
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    COMPARABLE_FROM,
    FACE_BOXES,
    WITH_FACE,
    CheckpointResult,
    DatasetFacts,
    Difference,
    Evaluation,
    LeftOut,
    SetDistance,
    Summary,
)
from vqgan_train.evaluation.report.rows import CODEBOOK_METRICS

WIDTH = 100
LABEL_WIDTH, VALUE_WIDTH, CHANGE_WIDTH = 22, 24, 27
"""Columns; two checkpoints and their difference make 99."""

NAMED_AT_MOST = 5
"""Images and shards of each kind of damage."""

TITLES: Mapping[str, str] = {
    ALL: "all images",
    WITH_FACE: "images with a face",
    FACE_BOXES: "faces, each by itself",
}


def table_lines(found: Evaluation) -> list[str]:
    """Draw the table; the first checkpoint is set against each of the others."""
    first, *later = found.checkpoints
    lines = [*_dataset_lines(found)]
    if not later:
        lines += _block(found, [first])
    for after in later:
        lines += _block(found, [first, after])
    lines += _notes(found)
    lines += _damage(found.dataset)
    return lines


def _dataset_lines(found: Evaluation) -> Iterator[str]:
    facts = found.dataset
    given = ", ".join(facts.given)
    yield (
        f"{facts.num_images:,} images of {given if len(given) < 40 else given[:37] + '...'}, "
        f"{facts.image_size} x {facts.image_size} pixels, range {facts.pixel_range}"
    )
    if facts.faces_looked_for and facts.num_images:
        images = int(found.images.slices[WITH_FACE].sum())
        yield (
            f"{len(found.images.face_images):,} faces in {images:,} images, "
            f"{images / facts.num_images:.1%} of all"
        )


def _block(found: Evaluation, pair: Sequence[CheckpointResult]) -> Iterator[str]:
    head = "".join(_short(checkpoint.name).ljust(VALUE_WIDTH) for checkpoint in pair)
    change = ["change"] if len(pair) == 2 else []
    yield ""
    yield (" " * LABEL_WIDTH + head + "".join(change)).rstrip()
    sizes = found.group_sizes()
    differences = _by_place(found, pair)
    for group in pair[0].summaries:
        noun = "faces" if group == FACE_BOXES else "images"
        yield f"{TITLES.get(group, f'slice {group}')}, {sizes[group]:,} {noun}"
        for metric in pair[0].summaries[group]:
            yield _row(metric, group, pair, differences)
        yield from _distance_row(group, pair)
    yield "tokens of all images"
    for metric in CODEBOOK_METRICS:
        values = [float(getattr(checkpoint.codebook, metric)) for checkpoint in pair]
        cells = [_number(metric, value) for value in values]
        cells += [_number(metric, values[1] - values[0], sign="+")] if len(pair) == 2 else []
        yield _line(metric, cells)


def _row(
    metric: str,
    group: str,
    pair: Sequence[CheckpointResult],
    differences: Mapping[tuple[str, str], Difference],
) -> str:
    cells = [_interval(metric, checkpoint.summaries[group][metric]) for checkpoint in pair]
    if len(pair) == 2 and (difference := differences.get((group, metric))):
        cells.append(_interval(metric, difference.change, sign="+"))
    return _line(metric, cells)


def _distance_row(group: str, pair: Sequence[CheckpointResult]) -> Iterator[str]:
    distances = [checkpoint.rfid[group] for checkpoint in pair if group in checkpoint.rfid]
    if len(distances) < len(pair):
        return
    cells = [_distance(distance) for distance in distances]
    if len(pair) == 2:
        cells.append(_number("rfid", distances[1].value - distances[0].value, sign="+"))
    yield _line("rfid", cells)


def _distance(distance: SetDistance) -> str:
    if not distance.count:
        return "-"
    mark = "" if distance.comparable else " *"
    return f"{_number('rfid', distance.value)} (N = {distance.count:,}{mark})"


def _notes(found: Evaluation) -> Iterator[str]:
    yield ""
    yield "Means with 95 % bootstrap intervals; a change is of the same images, one by one."
    if any(not summary.has_interval for summary in _shown(found)):
        yield "(-): no interval is known of fewer than two images."
    distances = [
        distance
        for checkpoint in found.checkpoints
        for distance in checkpoint.rfid.values()
        if distance.count
    ]
    if distances:
        yield from _wrapped(f"rFID by {distances[0].evaluator}.")
    for metric, evaluator in found.evaluators.items():
        yield from _wrapped(f"{METRICS[metric].label} by {evaluator}.")
    if any(not distance.comparable for distance in distances):
        yield (
            f"* of fewer than {COMPARABLE_FROM:,} images: comparable within this table, and with "
            "no other number."
        )
    for checkpoint in found.checkpoints:
        for group, metric, summary in _infinite(checkpoint):
            yield (
                f"{METRICS[metric].label} of {_short(checkpoint.name)} in {group}: "
                f"{summary.num_infinite:,} infinite (identical pixels), not in the mean."
            )
    yield from left_out_lines(found.left_out)


def left_out_lines(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """What was not measured, or not drawn, and why."""
    for left in left_out:
        label = METRICS[left.metric].label if left.metric in METRICS else left.metric
        yield from _wrapped(f"left out: {label}: {left.reason}")


def _wrapped(note: str) -> list[str]:
    return wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _damage(facts: DatasetFacts) -> Iterator[str]:
    for names, what in (
        (facts.unreadable, "images could not be read"),
        (facts.dead_shards, "shards hold nothing that could be read"),
        (facts.damaged_shards, "shards have lost samples"),
    ):
        if names:
            yield f"{len(names):,} {what}:"
            yield from (f"  {name}"[:WIDTH] for name in names[:NAMED_AT_MOST])
            more = len(names) - NAMED_AT_MOST
            yield from [f"  and {more:,} more, by name in {JSON_FILE}"] * (more > 0)


def _shown(found: Evaluation) -> Iterator[Summary]:
    for checkpoint in found.checkpoints:
        for of_group in checkpoint.summaries.values():
            yield from (summary for summary in of_group.values() if summary.count)
    yield from (difference.change for difference in found.differences if difference.change.count)


def _infinite(checkpoint: CheckpointResult) -> Iterator[tuple[str, str, Summary]]:
    for group, summaries in checkpoint.summaries.items():
        for metric, summary in summaries.items():
            if summary.num_infinite and summary.count:
                yield group, metric, summary


def _by_place(
    found: Evaluation, pair: Sequence[CheckpointResult]
) -> dict[tuple[str, str], Difference]:
    return {
        (difference.group, difference.metric): difference
        for difference in found.differences
        if difference.after == pair[-1].name
    }


def _line(metric: str, cells: Sequence[str]) -> str:
    shown = METRICS[metric]
    label = f"  {shown.label}{f', {shown.unit}' if shown.unit else ''}".ljust(LABEL_WIDTH)
    widths = [VALUE_WIDTH, VALUE_WIDTH, CHANGE_WIDTH]
    return (
        label + "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
    ).rstrip()


def _interval(metric: str, summary: Summary, *, sign: str = "") -> str:
    if not summary.count:
        if not summary.num_infinite:
            return "-"
        return "-infinite" if summary.mean < 0 else "infinite"
    mean = _number(metric, summary.mean, sign=sign)
    if not summary.has_interval:
        return f"{mean} (-)"
    low, high = (_number(metric, value, sign=sign) for value in (summary.low, summary.high))
    return f"{mean} ({low}, {high})"


def _number(metric: str, value: float, *, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{sign}z,.{METRICS[metric].decimals}f}"  # z: what rounds to zero has no sign


def _short(name: str) -> str:
    return name if len(name) < VALUE_WIDTH else f"{name[: VALUE_WIDTH - 5]}..."
