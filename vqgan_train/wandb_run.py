"""A run at Weights & Biases: one a folder, whose steps never go back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

ARTIFACT_TYPE = "model"
ARTIFACT_FILE = "model.ckpt"
"""As Lightning's own logger calls checkpoints."""

LAST, BEST = "last", "best"


class WandbRun(WandbLogger):
    """Logs each metric of each step once, over any number of resumes.

    W&B cannot forget: steps that a run makes again after a crash would be drawn twice. What the
    first try logged stays as it is; on a CPU the second one is equal to the last bit.

    Args:
        already_logged: rows of metrics.csv that the run was rewound behind.
        options: those of Lightning's WandbLogger.
    """

    def __init__(self, already_logged: Sequence[Mapping[str, str]], **options: Any) -> None:
        super().__init__(**options)
        self._already = {
            (int(row["step"]), name) for row in already_logged for name in row if row[name]
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what is new."""
        new = {name: v for name, v in metrics.items() if (step, name) not in self._already}
        if new:
            super().log_metrics(new, step)

    @property
    def identity(self) -> dict[str, str]:
        """What finds the run again; first rank only."""
        run = self.experiment
        return {name: getattr(run, name) or "" for name in ("entity", "project", "id", "url")}

    @property
    def is_online(self) -> bool:
        """Whether there is a server to ask; first rank only."""
        return not (self.experiment.offline or self.experiment.disabled)

    def upload_checkpoint(self, file: Path, metadata: dict[str, Any], aliases: list[str]) -> None:
        """Log a checkpoint as the next version of the run's artifact; the file may change later."""
        artifact = wandb.Artifact(f"model-{self.experiment.id}", ARTIFACT_TYPE, metadata=metadata)
        artifact.add_file(str(file), name=ARTIFACT_FILE)
        logged = self.experiment.log_artifact(artifact, aliases=aliases)
        if self.is_online:
            logged.wait()  # errors of the server show here

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


def artifact_of_run(identity: Mapping[str, str] | None) -> str | None:
    """The artifact that holds the last checkpoint of an online run, by the run's identity."""
    if not identity or not identity["url"]:
        return None
    return f"{identity['entity']}/{identity['project']}/model-{identity['id']}:{LAST}"
