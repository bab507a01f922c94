"""A trace of some training steps, for Perfetto or chrome://tracing."""

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from vqgan_train.training.callbacks.metrics_log import MetricsLog

log = logging.getLogger(__name__)

PROFILED_STEPS = 5
TABLE_ROWS = 30


class Profile(Callback):
    """Traces five steps on each rank, with the data loading and logging between them.

    Writes the trace to `step_<N>_rank_<R>.json.gz`, where N is the first traced step and R the
    rank, and a table of the costliest operations to `step_<N>_rank_<R>.txt`.

    Args:
        folder: receives the files.
        first_step: first traced step, counted from 0; the first few steps of a process are slower
            than later ones.
        metrics: pauses its clock while a trace is written.
    """

    def __init__(self, folder: Path, first_step: int, metrics: MetricsLog) -> None:
        self.folder = folder
        self.first_step = first_step
        self.metrics = metrics
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if `first_step` is not among the steps that are left."""
        if not trainer.global_step <= self.first_step < trainer.max_steps:
            log.warning(
                "WARNING: trainer.profile_step=%d is not among the steps %d to %d that are left, "
                "so nothing is traced. Set one of these.",
                self.first_step,
                trainer.global_step,
                trainer.max_steps - 1,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the trace at `first_step`."""
        if self._profile is None and trainer.global_step == self.first_step:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the trace after `PROFILED_STEPS` steps."""
        if trainer.global_step >= self.first_step + PROFILED_STEPS:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a shorter trace if the run ends before all traced steps."""
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write a shorter trace if an error or a signal stops the run before."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self._profile is None:
            return
        self.metrics.pause()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step_{self.first_step:06d}_rank_{trainer.global_rank}"
        self._profile.export_chrome_trace(str(self.folder / f"{name}.json.gz"))
        on_gpu = ProfilerActivity.CUDA in self._profile.activities
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=order, row_limit=TABLE_ROWS)
        (self.folder / f"{name}.txt").write_text(table)
        log.info("profile      %s", self.folder / f"{name}.json.gz")
        self._profile = None
