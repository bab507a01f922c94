"""Turns an evaluation into the rows of its CSV files; the first row of each is the head."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vqgan_train.evaluation.report.results import ALL, CheckpointResult, Evaluation, Floats, Summary

SLICE_PREFIX = "slice:"
"""Prefix of slices in the head of images.csv; values are `CHECKPOINT:METRIC`."""

CODEBOOK_METRICS = ("codes_used", "dead_codes", "perplexity", "entropy_bits")

IMAGES_HEAD = "number,key,source,"
"""Start of every images.csv, by which a folder is recognised as an evaluation's."""

BOX = ("left", "top", "right", "bottom")

SUMMARY_HEAD = (
    "checkpoint", "compared_with", "group", "metric", "value", "low", "high", "count",
    "num_infinite", "share_better", "evaluator", "comparable",
)  # fmt: skip


def image_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    """Return the rows of images.csv, one per image."""
    table = evaluation.images
    columns: dict[str, Sequence[Any]] = {
        "number": table.numbers.tolist(),
        "key": table.keys,
        "source": table.sources,
        "caption": table.captions,
        "width": table.widths.tolist(),
        "height": table.heights.tolist(),
        "faces": np.bincount(table.face_images, minlength=len(table.keys)).tolist(),
        **{SLICE_PREFIX + name: rows.astype(int).tolist() for name, rows in table.slices.items()},
        **_value_columns({c.name: c.values for c in evaluation.checkpoints}),
    }
    return [list(columns), *zip(*columns.values(), strict=True)]


def face_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    """Return the rows of faces.csv, one per face; `row` is the image's row in images.csv."""
    table = evaluation.images
    columns: dict[str, Sequence[Any]] = {
        "row": table.face_images.tolist(),
        **{name: table.face_boxes[:, index].tolist() for index, name in enumerate(BOX)},
        **_value_columns({c.name: c.face_values for c in evaluation.checkpoints}),
    }
    return [list(columns), *zip(*columns.values(), strict=True)]


def _value_columns(values: Mapping[str, Mapping[str, Floats]]) -> dict[str, Sequence[Any]]:
    return {
        f"{name}:{metric}": column.tolist()
        for name, of_checkpoint in values.items()
        for metric, column in of_checkpoint.items()
    }


def summary_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    """Return the rows of summary.csv, one per number of the table."""
    yield SUMMARY_HEAD
    for cells in _summary_cells(evaluation):
        yield [_empty_if_nan(cells.get(name, "")) for name in SUMMARY_HEAD]


def _summary_cells(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    """Yield the cells of each row of summary.csv by column."""
    for checkpoint in evaluation.checkpoints:
        of_checkpoint = {"checkpoint": checkpoint.name}
        for group, summaries in checkpoint.summaries.items():
            of_group = of_checkpoint | {"group": group}
            for metric, summary in summaries.items():
                evaluator = evaluation.evaluators.get(metric.removeprefix("face_"), "")
                yield of_group | {"metric": metric, "evaluator": evaluator} | _interval(summary)
            if distance := checkpoint.rfid.get(group):
                comparable = {"comparable": int(distance.comparable)}
                yield of_group | {"metric": "rfid"} | asdict(distance) | comparable
        for metric, value in codebook_values(checkpoint).items():
            yield of_checkpoint | {"group": ALL, "metric": metric, "value": value}
    yield from _changes_without_interval(evaluation)
    for difference in evaluation.differences:
        yield {
            "checkpoint": difference.after,
            "compared_with": difference.before,
            "group": difference.group,
            "metric": difference.metric,
            "share_better": difference.share_better,
            **_interval(difference.change),
        }


def codebook_values(checkpoint: CheckpointResult) -> dict[str, float]:
    """Return the codebook's statistics by metric, in the order of tables."""
    return {metric: getattr(checkpoint.codebook, metric) for metric in CODEBOOK_METRICS}


def _changes_without_interval(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    """Yield the changes of rFID and codebook use, which have no value per image to resample."""
    before, *later = evaluation.checkpoints
    for after in later:
        changes = [
            (group, "rfid", distance.value - before.rfid[group].value)
            for group, distance in after.rfid.items()
            if group in before.rfid
        ]
        old_values, new_values = codebook_values(before), codebook_values(after)
        changes += [(ALL, name, new_values[name] - old_values[name]) for name in new_values]
        for group, metric, value in changes:
            yield {
                "checkpoint": after.name,
                "compared_with": before.name,
                "group": group,
                "metric": metric,
                "value": value,
            }


def _interval(summary: Summary) -> dict[str, Any]:
    cells = asdict(summary)
    return {"value": cells.pop("mean"), **cells}


def _empty_if_nan(value: Any) -> Any:
    """Replace NaN by an empty cell, because spreadsheets read `nan` as text."""
    return "" if isinstance(value, float) and math.isnan(value) else value
