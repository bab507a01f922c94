"""The table of an evaluation: every number with its change, from which all formats are rendered."""

from collections.abc import Sequence
from typing import NamedTuple

from vqgan_train.evaluation.report.results import (
    ALL,
    FACE_BOXES,
    WITH_FACE,
    Difference,
    Evaluation,
    SetDistance,
    Summary,
)

TOKENS = "tokens"
"""Key of the token metrics in `table_rows`; the other keys are groups of images or faces."""

CODEBOOK_METRICS = (
    "num_tokens",
    "codes_used",
    "uniform_codes_used",
    "dead_codes",
    "perplexity",
    "uniform_perplexity",
    "entropy_bits",
)

TITLES = {
    ALL: "all images",
    WITH_FACE: "images with a face",
    FACE_BOXES: "faces, each by itself",
    TOKENS: "tokens of all images",
}


class Row(NamedTuple):
    """One metric of one group, of all checkpoints."""

    metric: str
    values: Sequence[Summary | SetDistance | float]
    """One per checkpoint, all of one type."""

    changes: Sequence[Difference | float | None]
    """Change from the first checkpoint, per checkpoint; None for the first one. Metrics without a
    value per image, such as rFID, have no intervals: their change is a number."""


def group_title(group: str) -> str:
    """Return the title of a group or slice in tables."""
    return TITLES.get(group, f"slice {group}")


def group_size(evaluation: Evaluation, group: str) -> str:
    """Return the number of images, faces or codes with its noun, such as `10 images`."""
    if group == TOKENS:
        return f"{len(evaluation.checkpoints[0].codebook.usage):,} codes"
    noun = "faces" if group == FACE_BOXES else "images"
    return f"{evaluation.group_sizes()[group]:,} {noun}"


def table_rows(evaluation: Evaluation) -> dict[str, list[Row]]:
    """Return all rows by group; TOKENS come last."""
    checkpoints = evaluation.checkpoints
    differences = {(d.after, d.group, d.metric): d for d in evaluation.differences}
    table = {}
    for group, metrics in checkpoints[0].summaries.items():
        table[group] = [
            Row(
                metric,
                [checkpoint.summaries[group][metric] for checkpoint in checkpoints],
                [differences.get((c.name, group, metric)) for c in checkpoints],
            )
            for metric in metrics
        ]
        if group in checkpoints[0].rfid:
            distances = [checkpoint.rfid[group] for checkpoint in checkpoints]
            changes = _plain_changes([distance.value for distance in distances])
            table[group].append(Row("rfid", distances, changes))
    statistics = {
        metric: [getattr(checkpoint.codebook, metric) for checkpoint in checkpoints]
        for metric in CODEBOOK_METRICS
    }
    table[TOKENS] = [
        Row(name, values, _plain_changes(values)) for name, values in statistics.items()
    ]
    return table


def _plain_changes(values: Sequence[float]) -> list[float | None]:
    return [None, *(value - values[0] for value in values[1:])]
