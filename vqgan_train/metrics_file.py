"""Reads metrics.csv."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

METRICS_FILE = "metrics.csv"

Row = Mapping[str, float]
"""The metrics of a step by name, and the step itself."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """List the whole rows that are there; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def numbers(rows: Iterable[Mapping[str, str]]) -> list[Row]:
    """Rows as numbers; empty cells are left out."""
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def rows_beside(checkpoint: str) -> list[Row]:
    """Rows of the run whose folder a checkpoint lies in; none if it lies in none here."""
    folder = Path(checkpoint).expanduser().absolute().parent.parent
    try:
        return numbers(read_rows(folder / METRICS_FILE))
    except (OSError, ValueError, TypeError):  # a table of somebody else's
        return []
