"""Loggers for metrics.csv and Weights & Biases that log each step once, over all resumes."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.metrics.history import read_rows
from vqgan_train.system.files import write_atomically


class MetricsCsv(Logger):
    """Writes metrics to a CSV file at once, one row per step.

    A metric logged for the first time adds a column. A row that a crash cut off is dropped when
    the run resumes.

    Args:
        path: the CSV file; its folder is created on first use.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns = ["step"]
        self._row: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Return "": Lightning requires a name, but `path` needs none."""
        return ""

    @property
    def version(self) -> str:
        """Return "": Lightning requires a version, but `path` needs none."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because config.yaml has the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the row of a step, or extend it if it is the last row."""
        is_same_step = self._row.get("step") == str(step)
        row = self._row if is_same_step else {"step": str(step)}
        self._row = row | {name: repr(float(value)) for name, value in metrics.items()}
        new_columns = [name for name in self._row if name not in self._columns]
        # Written at once: a checkpoint of this step may follow, and a run that resumes from it does
        # not log the step again.
        if new_columns or is_same_step or not self.path.exists():
            self._columns += new_columns
            rows = read_rows(self.path)
            self._rewrite([*(rows[:-1] if is_same_step else rows), self._row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(self._row)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows after a step, because the resumed run logs these steps again."""
        rows = read_rows(self.path)
        if rows:
            self._columns = list(rows[0])
            kept = [row for row in rows if int(row["step"]) <= step]
            self._row = kept[-1] if kept else {}
            self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        with write_atomically(self.path) as file:
            file.write(table.getvalue().encode())


ARTIFACT_TYPE = "model"
ARTIFACT_FILE = "model.ckpt"
"""Name of the checkpoint in an artifact, the same as with Lightning's own logger."""

LOGGED_FILE, UPLOADED_FILE = "wandb_logged", "wandb_uploaded"
"""Files in a run's folder: the last step logged to W&B, and `WandbRun.uploaded_step`."""

LAST, BEST = "last", "best"
STEP = "trainer/global_step"
"""Lightning's name for the step, the x-axis of all plots at W&B."""


class WandbRun(WandbLogger):
    """Logs each step to W&B once and in order, over any number of kills and resumes.

    W&B cannot delete a logged step, and a killed process loses the rows that it had not sent. So a
    resumed run first sends the rows of metrics.csv that W&B lacks. For the steps that it repeats,
    it sends only the metrics that W&B lacks. (On a CPU, repeated steps are bit-equal.)

    Args:
        rows: rows of metrics.csv, as the last process left them.
        resumed_step: step that the run resumes from; it repeats later ones. -1 for a new run.
        folder: the run's folder, which records the last logged step and the uploaded artifact.
        options: keyword arguments of Lightning's `WandbLogger`.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, str]], resumed_step: int, folder: Path, **options: Any
    ) -> None:
        super().__init__(save_dir=folder, **options)
        self._logged = folder / LOGGED_FILE
        self._uploaded = folder / UPLOADED_FILE
        self._rows = {
            int(row["step"]): {n: float(v) for n, v in row.items() if v and n != "step"}
            for row in rows
        }
        self._resumed_step = resumed_step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send earlier processes' rows that W&B lacks, then those of `metrics` that it lacks."""
        for earlier, row in self._missing.items():
            super().log_metrics(row, earlier)
        self._missing.clear()
        new = {name: v for name, v in metrics.items() if (step, name) not in self._arrived}
        if new:
            super().log_metrics(new, step)
            self._logged.write_text(str(step))

    @rank_zero_only
    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **options: Any
    ) -> None:
        """Log pictures, unless W&B has a later step: it takes steps only in order."""
        if step is None or step >= self._last_step:
            super().log_image(key, images, step, **options)

    @cached_property
    def _last_step(self) -> int:
        """Last step that W&B has; offline, the last step logged locally; -1 if there is none."""
        if self.is_online:
            return int(self.experiment.summary.get(STEP, -1))
        return int(self._logged.read_text()) if self._logged.exists() else -1

    @cached_property
    def _arrived(self) -> set[tuple[int, str]]:
        """Step and name of each metric in metrics.csv that W&B has."""
        summary = self.experiment.summary if self.is_online else None
        return {
            (step, name)
            for step, row in self._rows.items()
            for name, value in row.items()
            if step < self._last_step
            # The last step may have arrived in part. W&B's summary has the newest value per metric.
            or (step == self._last_step and (summary is None or summary.get(name) == value))
        }

    @cached_property
    def _missing(self) -> dict[int, dict[str, float]]:
        """Metrics in metrics.csv, by step, that W&B lacks and that this run will not log again."""
        missing = {
            step: {name: v for name, v in row.items() if (step, name) not in self._arrived}
            for step, row in self._rows.items()
            if step <= self._resumed_step
        }
        return {step: row for step, row in missing.items() if row}

    @property
    def identity(self) -> dict[str, str]:
        """Entity, project, id and address of the run at W&B; on the first rank only."""
        run = self.experiment
        return {name: getattr(run, name) or "" for name in ("entity", "project", "id", "url")}

    @property
    def is_online(self) -> bool:
        """Whether the run logs to a server; on the first rank only."""
        return not (self.experiment.offline or self.experiment.disabled)

    @property
    def uploaded_step(self) -> int:
        """Step of the last.ckpt that W&B confirmed last (offline: stored locally); -1 if none."""
        return int(self._uploaded.read_text()) if self._uploaded.exists() else -1

    @uploaded_step.setter
    def uploaded_step(self, step: int) -> None:
        self._uploaded.write_text(str(step))

    def upload_checkpoint(
        self, file: Path, metadata: dict[str, Any], aliases: list[str]
    ) -> wandb.Artifact:
        """Start the upload of a checkpoint as the next version of the run's artifact.

        The client copies the file first, so it may be overwritten after this call.
        """
        artifact = wandb.Artifact(f"model-{self.experiment.id}", ARTIFACT_TYPE, metadata=metadata)
        artifact.add_file(str(file), name=ARTIFACT_FILE)
        return self.experiment.log_artifact(artifact, aliases=aliases)

    def delete_old_checkpoints(self, keep: int) -> None:
        """Delete the run's artifact versions except `last`, `best` and the newest `keep` others."""
        run = self.experiment
        versions = wandb.Api().artifacts(
            ARTIFACT_TYPE, f"{run.entity}/{run.project}/model-{run.id}"
        )
        old = [version for version in versions if not {LAST, BEST} & set(version.aliases)]
        old.sort(key=lambda version: int(version.version.removeprefix("v")))
        for version in old[: max(len(old) - keep, 0)]:
            version.delete(delete_aliases=True)


def artifact_of_run(identity: Mapping[str, str] | None, step: int) -> str | None:
    """Name the W&B artifact of a run at a step; None if `identity` is missing or has no URL."""
    if not identity or not identity["url"]:
        return None
    return f"{identity['entity']}/{identity['project']}/model-{identity['id']}:step-{step}"
