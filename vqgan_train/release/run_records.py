"""Metrics and pictures that the folder of a training run holds besides its checkpoints."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from vqgan_train.metrics.history import METRICS_FILE, MetricRow, numbers, read_rows
from vqgan_train.release.lineage import TrainingRun
from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.run.contents import (
    CHECKPOINTS,
    CONFIG_FILE,
    PICTURES,
    require_same_run,
)

log = logging.getLogger(__name__)

PICTURE_FILE = re.compile(r"step_([0-9]+)\.png")
STEP_SECONDS = "train/step_seconds"


class RunRecords(NamedTuple):
    """Metrics and newest pictures of a run, up to the step of its checkpoint."""

    metrics: Path | None
    """The run's metrics.csv; None if it is unavailable."""

    rows: tuple[MetricRow, ...]
    """Rows of `metrics` up to the checkpoint; later rows describe another model."""

    pictures: Path | None
    """Newest picture grid that is not later than the checkpoint; None if there is no grid."""

    pictures_step: int | None
    """Training step of `pictures`; None if there is no grid."""

    def first(self, metric: str) -> MetricRow | None:
        """Return the first row with a value of a metric; None if there is no such row."""
        return next((row for row in self.rows if metric in row), None)

    def last(self, metric: str) -> MetricRow | None:
        """Return the last row with a value of a metric; None if there is no such row."""
        return next((row for row in reversed(self.rows) if metric in row), None)

    def values(self, metric: str) -> list[float]:
        """Return the distinct values of a metric, in the order of their first appearance."""
        return list(dict.fromkeys(row[metric] for row in self.rows if metric in row))

    def training_seconds(self, start_step: int) -> float:
        """Return the seconds of all steps after `start_step`, without validations; 0 if unknown."""
        # A row holds the mean duration of the steps since the row before. Rows of steps that a
        # resumed run repeated are skipped.
        seconds, before = 0.0, float(start_step)
        for row in self.rows:
            if STEP_SECONDS in row and row["step"] > before:
                seconds += row[STEP_SECONDS] * (row["step"] - before)
                before = row["step"]
        return seconds


UNAVAILABLE = RunRecords(None, (), None, None)


def find_records(run: TrainingRun) -> RunRecords:
    """Read the records from the folder that a run saved its checkpoint in.

    Returns:
        `UNAVAILABLE` if the folder is gone, is no run's, or is another run's, which is logged.
    """
    folder = run.checkpoint.absolute().parent.parent
    metrics = folder / METRICS_FILE
    if run.checkpoint.parent.name != CHECKPOINTS or not (folder / CONFIG_FILE).is_file():
        return UNAVAILABLE
    try:
        require_same_run(folder, run.settings)
    except RunFolderError as error:
        log.warning("Left out metrics and pictures of Part %d: %s", run.number, error)
        return UNAVAILABLE
    rows = numbers(read_rows(metrics))
    pictures_step, pictures = _newest_pictures(folder / PICTURES, run.end.steps)
    return RunRecords(
        metrics=metrics if metrics.is_file() else None,
        rows=tuple(row for row in rows if row["step"] <= run.end.steps),
        pictures=pictures,
        pictures_step=pictures_step,
    )


def _newest_pictures(folder: Path, max_step: int) -> tuple[int, Path] | tuple[None, None]:
    names = {file: PICTURE_FILE.fullmatch(file.name) for file in folder.glob("*.png")}
    grids = [(int(name[1]), file) for file, name in names.items() if name]
    return max((grid for grid in grids if grid[0] <= max_step), default=(None, None))
