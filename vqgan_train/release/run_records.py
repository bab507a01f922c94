"""What the folder of a run tells of it beside its checkpoints: metrics and pictures."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from vqgan_train.metrics.history import METRICS_FILE, Row, numbers, read_rows
from vqgan_train.release.lineage import Part
from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.run.contents import (
    CHECKPOINTS,
    CONFIG_FILE,
    PICTURES,
    require_same_run,
)

log = logging.getLogger(__name__)

VALIDATED = "val/loss/reconstruction"
TRAINED = "train/loss/reconstruction"
"""Are in every row of a validation, and of training."""

GRID = re.compile(r"step_([0-9]+)\.png")

STEP_SECONDS = "train/step_seconds"


class Records(NamedTuple):
    """What is on this disk of a part."""

    metrics: Path | None
    rows: tuple[Row, ...]
    """Of the metrics, up to the step that the part ended with; later ones are of another model."""

    pictures: Path | None
    """The newest grid, likewise."""

    pictures_step: int | None

    def first(self, metric: str) -> Row | None:
        """The first row that has a metric."""
        return next((row for row in self.rows if metric in row), None)

    def last(self, metric: str) -> Row | None:
        """The last row that has a metric."""
        return next((row for row in reversed(self.rows) if metric in row), None)

    def values(self, metric: str) -> list[float]:
        """All values of a metric, each once."""
        return list(dict.fromkeys(row[metric] for row in self.rows if metric in row))

    def training_seconds(self, start_step: int) -> float:
        """Seconds that the steps after `start_step` took, validations and restarts left out."""
        seconds, before = 0.0, float(start_step)
        for row in self.rows:
            if STEP_SECONDS in row and row["step"] > before:
                seconds += row[STEP_SECONDS] * (row["step"] - before)
                before = row["step"]
        return seconds


NOTHING = Records(None, (), None, None)


def find_records(part: Part) -> Records:
    """Look into the folder that a part's checkpoint lies, or lay, in; nothing if it is gone."""
    folder = part.checkpoint.absolute().parent.parent
    metrics = folder / METRICS_FILE
    if part.checkpoint.parent.name != CHECKPOINTS or not (folder / CONFIG_FILE).is_file():
        return NOTHING
    try:
        require_same_run(folder, part.settings)
    except RunFolderError as error:
        log.warning("Left out metrics and pictures of Part %d: %s", part.number, error)
        return NOTHING
    rows = numbers(read_rows(metrics))
    pictures_step, pictures = _newest_pictures(folder / PICTURES, part.end[0])
    return Records(
        metrics=metrics if metrics.is_file() else None,
        rows=tuple(row for row in rows if row["step"] <= part.end[0]),
        pictures=pictures,
        pictures_step=pictures_step,
    )


def _newest_pictures(folder: Path, step: int) -> tuple[int, Path] | tuple[None, None]:
    grids = {file: GRID.fullmatch(file.name) for file in folder.glob("*.png")}
    drawn = [(int(name[1]), file) for file, name in grids.items() if name]
    return max((grid for grid in drawn if grid[0] <= step), default=(None, None))
