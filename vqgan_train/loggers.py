"""metrics.csv: one row a step, whatever is logged, still whole after a crash or a resume."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Writes metrics to a CSV file, a row a step, flushed as soon as the step is over.

    A metric seen for the first time adds a column. When a run resumes, the rows after its
    checkpoint are dropped, since those steps are made again.

    Args:
        path: the file; its folder is made on first use.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns = ["step"]
        self._row: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Nothing: the file has a place of its own."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, likewise."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of a step; a later step closes the row before it."""
        if self._row and self._row["step"] != str(step):
            self.save()
        self._row["step"] = str(step)
        self._row |= {name: repr(float(value)) for name, value in metrics.items()}

    @rank_zero_only
    def save(self) -> None:
        """Write the row that is open."""
        if not self._row:
            return
        new = [name for name in self._row if name not in self._columns]
        if new or not self.path.exists():
            self._columns += new
            self._rewrite([*self._read(), self._row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(self._row)
        self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is open, however the run ended."""
        self.save()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows after a step, and go on with the columns that are there."""
        rows = self._read()
        if rows:
            self._columns = list(rows[0])
            self._rewrite([row for row in rows if int(row["step"]) <= step])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
