"""Prints an evaluation as lines of text of at most 100 characters."""

import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from vqgan_train.evaluation.report.evaluation_folder import JSON_FILE
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    MIN_COMPARABLE_IMAGES,
    WITH_FACE,
    CheckpointResult,
    DatasetFacts,
    Difference,
    Evaluation,
    LeftOut,
    SetDistance,
    Summary,
)
from vqgan_train.evaluation.report.rows import codebook_values

WIDTH = 100
LABEL_WIDTH, VALUE_WIDTH, CHANGE_WIDTH = 22, 24, 27
"""Widths of the columns; a label, two checkpoints and their difference take 97 characters."""

UNKNOWN = "(-)"
"""Printed for an unknown interval."""

MAX_NAMED = 5
"""Maximum number of images or shards named per kind of damage."""

TITLES: Mapping[str, str] = {
    ALL: "all images",
    WITH_FACE: "images with a face",
    FACE_BOXES: "faces, each by itself",
}


def group_title(group: str) -> str:
    """Return the title of a group or slice in tables."""
    return TITLES.get(group, f"slice {group}")


def group_size(evaluation: Evaluation, group: str) -> str:
    """Return the number of images, or of faces, in words."""
    noun = "faces" if group == FACE_BOXES else "images"
    return f"{evaluation.group_sizes()[group]:,} {noun}"


def table_lines(evaluation: Evaluation) -> list[str]:
    """Return the table: one block per later checkpoint, which compares it with the first."""
    first, *later = evaluation.checkpoints
    lines = [*_dataset_lines(evaluation)]
    for pair in [[first, after] for after in later] or [[first]]:
        lines += _block(evaluation, pair)
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


def _block(evaluation: Evaluation, pair: Sequence[CheckpointResult]) -> Iterator[str]:
    head = "".join(_shorten(checkpoint.name).ljust(VALUE_WIDTH) for checkpoint in pair)
    yield ""
    yield (" " * LABEL_WIDTH + head + "change" * (len(pair) == 2)).rstrip()
    differences = {
        (difference.group, difference.metric): difference
        for difference in evaluation.differences
        if difference.after == pair[-1].name
    }
    for group in pair[0].summaries:
        yield f"{group_title(group)}, {group_size(evaluation, group)}"
        for metric in pair[0].summaries[group]:
            yield _metric_line(metric, group, pair, differences)
        yield from _rfid_line(group, pair)
    yield "tokens of all images"
    statistics = [codebook_values(checkpoint) for checkpoint in pair]
    for metric in statistics[0]:
        values = [float(of_checkpoint[metric]) for of_checkpoint in statistics]
        yield _line(metric, [_number(metric, value) for value in values] + _change(metric, values))


def _metric_line(
    metric: str,
    group: str,
    pair: Sequence[CheckpointResult],
    differences: Mapping[tuple[str, str], Difference],
) -> str:
    cells = [_interval(metric, checkpoint.summaries[group][metric]) for checkpoint in pair]
    if len(pair) == 2 and (difference := differences.get((group, metric))):
        cells.append(_interval(metric, difference.change, sign="+"))
    return _line(metric, cells)


def _rfid_line(group: str, pair: Sequence[CheckpointResult]) -> Iterator[str]:
    distances = [checkpoint.rfid[group] for checkpoint in pair if group in checkpoint.rfid]
    if len(distances) == len(pair):
        values = [distance.value for distance in distances]
        yield _line("rfid", [_rfid(distance) for distance in distances] + _change("rfid", values))


def _rfid(distance: SetDistance) -> str:
    if not distance.count:
        return "-"
    mark = "" if distance.comparable else " *"
    return f"{_number('rfid', distance.value)} (N = {distance.count:,}{mark})"


def _notes(evaluation: Evaluation, *, has_unknown_intervals: bool) -> Iterator[str]:
    yield ""
    yield "Means with 95 % bootstrap intervals; a change is of the same images, one by one."
    if has_unknown_intervals:
        yield f"{UNKNOWN}: no interval is known of fewer than two images."
    distances = [
        distance
        for checkpoint in evaluation.checkpoints
        for distance in checkpoint.rfid.values()
        if distance.count
    ]
    if distances:
        yield from _wrapped(f"rFID by {distances[0].evaluator}.")
    for metric, evaluator in evaluation.evaluators.items():
        yield from _wrapped(f"{METRICS[metric].label} by {evaluator}.")
    if any(not distance.comparable for distance in distances):
        yield (
            f"* of fewer than {MIN_COMPARABLE_IMAGES:,} images: comparable within this table, and "
            "with no other number."
        )
    for note in infinite_notes(evaluation):
        yield from _wrapped(note)
    yield from left_out_lines(evaluation.left_out)


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


def _line(metric: str, cells: Sequence[str]) -> str:
    label, unit, *_ = METRICS[metric]
    start = f"  {label}, {unit}" if unit else f"  {label}"
    widths = [VALUE_WIDTH, VALUE_WIDTH, CHANGE_WIDTH]
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return (start.ljust(LABEL_WIDTH) + "".join(padded)).rstrip()


def _interval(metric: str, summary: Summary, *, sign: str = "") -> str:
    if not summary.count:
        if not summary.num_infinite:
            return "-"
        return "-infinite" if summary.mean < 0 else "infinite"
    mean = _number(metric, summary.mean, sign=sign)
    if not summary.has_interval:
        return f"{mean} {UNKNOWN}"
    low, high = (_number(metric, value, sign=sign) for value in (summary.low, summary.high))
    return f"{mean} ({low}, {high})"


def _change(metric: str, values: Sequence[float]) -> list[str]:
    """Return the cell of a change without an interval; empty for one checkpoint."""
    return [_number(metric, values[1] - values[0], sign="+")] if len(values) == 2 else []


def _number(metric: str, value: float, *, sign: str = "") -> str:
    return "-" if math.isnan(value) else METRICS[metric].format(value, sign=sign)


def _shorten(name: str) -> str:
    return name if len(name) < VALUE_WIDTH else f"{name[: VALUE_WIDTH - 5]}..."
