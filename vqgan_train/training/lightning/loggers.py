"""metrics.csv: one row a step, whatever is logged, still whole after a crash or a resume."""

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
        with write_atomically(self.path) as file:
            file.write(table.getvalue().encode())


ARTIFACT_TYPE = "model"
ARTIFACT_FILE = "model.ckpt"
"""As Lightning's own logger calls checkpoints."""

LOGGED_FILE, UPLOADED_FILE = "wandb_logged", "wandb_uploaded"
"""In a run's folder: the step that was logged last, and the one of the newest artifact."""

LAST, BEST = "last", "best"
STEP = "trainer/global_step"
"""Lightning's name for the step, which W&B draws everything over."""


class WandbRun(WandbLogger):
    """Logs each step once and in order, over any number of kills and resumes.

    W&B cannot forget, and a process that is killed takes what it had not sent yet with it. So a run
    that goes on first sends the rows of metrics.csv that did not arrive, and of the steps that it
    makes again only what is new there. (On a CPU the second try is equal to the last bit.)

    Args:
        rows: of metrics.csv, as the last process left it.
        resumed_step: steps after this one are made again.
        folder: the run's, in which is noted how far W&B and its artifact are.
        options: those of Lightning's WandbLogger.
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
        """Log what is new there, after what is missing there."""
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
        """Log pictures, unless W&B is past this step."""
        if step is None or step >= self._last_step:
            super().log_image(key, images, step, **options)

    @cached_property
    def _last_step(self) -> int:
        """The last step of which anything arrived; offline, which was written down."""
        if self.is_online:
            return int(self.experiment.summary.get(STEP, -1))
        return int(self._logged.read_text()) if self._logged.exists() else -1

    @cached_property
    def _arrived(self) -> set[tuple[int, str]]:
        """Steps and names of the metrics that W&B has."""
        summary = self.experiment.summary if self.is_online else None
        return {
            (step, name)
            for step, row in self._rows.items()
            for name, value in row.items()
            if step < self._last_step
            # A step may have arrived in part. The summary holds the newest value of each metric.
            or (step == self._last_step and (summary is None or summary.get(name) == value))
        }

    @cached_property
    def _missing(self) -> dict[int, dict[str, float]]:
        """Rows, or parts of them, that nobody will make again."""
        parts = {
            step: {name: v for name, v in row.items() if (step, name) not in self._arrived}
            for step, row in self._rows.items()
            if step <= self._resumed_step
        }
        return {step: row for step, row in parts.items() if row}

    @property
    def identity(self) -> dict[str, str]:
        """What finds the run again; first rank only."""
        run = self.experiment
        return {name: getattr(run, name) or "" for name in ("entity", "project", "id", "url")}

    @property
    def is_online(self) -> bool:
        """Whether there is a server to ask; first rank only."""
        return not (self.experiment.offline or self.experiment.disabled)

    @property
    def uploaded_step(self) -> int:
        """Step of the newest `last` that is at W&B for certain; -1 before there is one."""
        return int(self._uploaded.read_text()) if self._uploaded.exists() else -1

    @uploaded_step.setter
    def uploaded_step(self, step: int) -> None:
        self._uploaded.write_text(str(step))

    def upload_checkpoint(
        self, file: Path, metadata: dict[str, Any], aliases: list[str]
    ) -> wandb.Artifact:
        """Send a checkpoint off as the next version of the artifact; the file may change later."""
        artifact = wandb.Artifact(f"model-{self.experiment.id}", ARTIFACT_TYPE, metadata=metadata)
        artifact.add_file(str(file), name=ARTIFACT_FILE)
        return self.experiment.log_artifact(artifact, aliases=aliases)

    def delete_old_checkpoints(self, keep: int) -> None:
        """Delete versions, but the newest `keep` of those that are not called last or best."""
        run = self.experiment
        versions = wandb.Api().artifacts(
            ARTIFACT_TYPE, f"{run.entity}/{run.project}/model-{run.id}"
        )
        old = [version for version in versions if not {LAST, BEST} & set(version.aliases)]
        old.sort(key=lambda version: int(version.version.removeprefix("v")))
        for version in old[: max(len(old) - keep, 0)]:
            version.delete(delete_aliases=True)


def artifact_of_run(identity: Mapping[str, str] | None, step: int) -> str | None:
    """The artifact that holds the checkpoint of a step of an online run, by the run's identity."""
    if not identity or not identity["url"]:
        return None
    return f"{identity['entity']}/{identity['project']}/model-{identity['id']}:step-{step}"
