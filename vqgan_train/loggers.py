"""metrics.csv: one row a step, whatever is logged, still whole after a crash or a resume."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.cache import write_whole
from vqgan_train.metrics_file import read_rows


class MetricsCsv(Logger):
    """Writes metrics to a CSV file, a row a step, at once.

    A metric seen for the first time adds a column. A row that a crash cut off is dropped when the
    run goes on.

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
        """Write the row of a step, or add to it if it is the last one."""
        is_same_step = self._row.get("step") == str(step)
        before = self._row if is_same_step else {"step": str(step)}
        self._row = before | {name: repr(float(value)) for name, value in metrics.items()}
        new = [name for name in self._row if name not in self._columns]
        # Never later: a checkpoint may be written next, and what a resume takes for done is not
        # logged again.
        if new or is_same_step or not self.path.exists():
            self._columns += new
            rows = self.read()
            self._rewrite([*(rows[:-1] if is_same_step else rows), self._row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(self._row)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows after a step, and go on with the columns that are there."""
        rows = self.read()
        if rows:
            self._columns = list(rows[0])
            kept = [row for row in rows if int(row["step"]) <= step]
            self._row = kept[-1] if kept else {}
            self._rewrite(kept)

    def read(self) -> list[dict[str, str]]:
        """List the whole rows that are there."""
        return read_rows(self.path)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        with write_whole(self.path) as file:
            file.write(table.getvalue().encode())
