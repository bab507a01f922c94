"""An evaluation as the rows of tables, the first of each being its head."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqgan_train.evaluation.report.results import ALL, CheckpointResult, Evaluation, Summary

SLICE_PREFIX = "slice:"
"""Before a slice's name in the head of images.csv; values have `CHECKPOINT:METRIC`."""

CODEBOOK_METRICS = ("codes_used", "dead_codes", "perplexity", "entropy_bits")

IMAGES_HEAD = "number,key,source,"
"""How images.csv begins."""

BOX = ("left", "top", "right", "bottom")


def image_rows(found: Evaluation) -> Iterable[Mapping[str, Any]]:
    """images.csv: a row an image."""
    table = found.images
    faces = np.bincount(table.face_images, minlength=len(table.keys)).tolist()
    columns: dict[str, Sequence[Any]] = {
        "number": table.numbers.tolist(),
        "key": table.keys,
        "source": table.sources,
        "caption": table.captions,
        "width": table.widths.tolist(),
        "height": table.heights.tolist(),
        "faces": faces,
        **{SLICE_PREFIX + name: rows.astype(int).tolist() for name, rows in table.slices.items()},
        **_value_columns({c.name: c.values for c in found.checkpoints}),
    }
    return _by_row(columns)


def face_rows(found: Evaluation) -> Iterable[Mapping[str, Any]]:
    """faces.csv: a row a face, `row` being its image's in images.csv."""
    columns: dict[str, Sequence[Any]] = {"row": found.images.face_images.tolist()}
    columns |= {name: found.images.face_boxes[:, i].tolist() for i, name in enumerate(BOX)}
    columns |= _value_columns({c.name: c.face_values for c in found.checkpoints})
    return _by_row(columns)


def _value_columns(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> dict[str, Sequence[Any]]:
    return {
        f"{name}:{metric}": own.tolist()
        for name, of_metric in values.items()
        for metric, own in of_metric.items()
    }


def _by_row(columns: Mapping[str, Sequence[Any]]) -> Iterable[Mapping[str, Any]]:
    yield {name: name for name in columns}  # the head
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def summary_rows(found: Evaluation) -> Iterable[Mapping[str, Any]]:
    """summary.csv: a row a number of the table."""
    head = (
        "checkpoint", "compared_with", "group", "metric", "value", "low", "high", "count",
        "num_infinite", "share_better", "evaluator", "comparable",
    )  # fmt: skip
    yield {name: name for name in head}
    empty: dict[str, Any] = dict.fromkeys(head, "")
    for checkpoint in found.checkpoints:
        for group, summaries in checkpoint.summaries.items():
            of_group = empty | {"checkpoint": checkpoint.name, "group": group}
            for metric, summary in summaries.items():
                by = {"evaluator": found.evaluators.get(metric.removeprefix("face_"), "")}
                yield of_group | {"metric": metric} | by | _cells(summary)
            if distance := checkpoint.rfid.get(group):
                cells = asdict(distance) | {"comparable": int(distance.comparable)}
                yield of_group | {"metric": "rfid"} | _empty_for_nan(cells)
        for metric, value in _of_all_tokens(checkpoint).items():
            rated: dict[str, Any] = {"checkpoint": checkpoint.name, "group": ALL, "metric": metric}
            yield empty | rated | {"value": value}
    yield from (empty | changed for changed in _changes_of_sets(found))
    for difference in found.differences:
        named: dict[str, Any] = {
            "checkpoint": difference.after,
            "compared_with": difference.before,
            "group": difference.group,
            "metric": difference.metric,
            **_empty_for_nan({"share_better": difference.share_better}),
        }
        yield empty | named | _cells(difference.change)


def _of_all_tokens(checkpoint: CheckpointResult) -> dict[str, float]:
    return {metric: getattr(checkpoint.codebook, metric) for metric in CODEBOOK_METRICS}


def _changes_of_sets(found: Evaluation) -> Iterable[dict[str, Any]]:
    """Of numbers that no image has by itself; they have no interval."""
    before, *later = found.checkpoints
    for after in later:
        changes = [
            (group, "rfid", distance.value - before.rfid[group].value)
            for group, distance in after.rfid.items()
            if group in before.rfid
        ]
        was, now = _of_all_tokens(before), _of_all_tokens(after)
        changes += [(ALL, metric, now[metric] - was[metric]) for metric in now]
        for group, metric, value in changes:
            named = {"checkpoint": after.name, "compared_with": before.name, "group": group}
            yield named | {"metric": metric} | _empty_for_nan({"value": value})


def _cells(summary: Summary) -> dict[str, Any]:
    plain = _empty_for_nan(asdict(summary))
    return {"value": plain.pop("mean"), **plain}


def _empty_for_nan(cells: Mapping[str, Any]) -> dict[str, Any]:
    """What is not known is no number; spreadsheets take `nan` for a word."""
    return {
        name: "" if isinstance(value, float) and math.isnan(value) else value
        for name, value in cells.items()
    }
