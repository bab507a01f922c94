"""Turns an evaluation into the rows of its CSV files; the first row of each is the head."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vqgan_train.evaluation.report.results import ALL, Evaluation, Floats, SetDistance, Summary
from vqgan_train.evaluation.report.table import TOKENS, table_rows

SLICE_PREFIX = "slice:"
"""Prefix of the columns of slices in images.csv; those of values are `CHECKPOINT:METRIC`."""

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
    """Return the rows of faces.csv, one per face; `row` counts the rows of images.csv from 0."""
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
    """Yield each row of summary.csv as a dict by column."""
    table = [
        (ALL if group == TOKENS else group, row)
        for group, rows in table_rows(evaluation).items()
        for row in rows
    ]
    first, *later = evaluation.checkpoints
    for index, checkpoint in enumerate(evaluation.checkpoints):
        for group, row in table:
            yield {
                "checkpoint": checkpoint.name,
                "group": group,
                "metric": row.metric,
                "evaluator": evaluation.evaluators.get(row.metric.removeprefix("face_"), ""),
                **_value_cells(row.values[index]),
            }
    for index, after in enumerate(later, start=1):
        for group, row in table:
            change = row.changes[index]
            if isinstance(change, int | float):
                yield {
                    "checkpoint": after.name,
                    "compared_with": first.name,
                    "group": group,
                    "metric": row.metric,
                    "value": change,
                }
    for difference in evaluation.differences:
        yield {
            "checkpoint": difference.after,
            "compared_with": difference.before,
            "group": difference.group,
            "metric": difference.metric,
            "share_better": difference.share_better,
            **_value_cells(difference.change),
        }


def _value_cells(value: Summary | SetDistance | float) -> dict[str, Any]:
    if isinstance(value, Summary):
        cells = asdict(value)
        return {"value": cells.pop("mean"), **cells}
    if isinstance(value, SetDistance):
        return asdict(value) | {"comparable": int(value.comparable)}
    return {"value": value}


def _empty_if_nan(value: Any) -> Any:
    """Replace NaN by an empty cell, because spreadsheets read `nan` as text."""
    return "" if isinstance(value, float) and math.isnan(value) else value
