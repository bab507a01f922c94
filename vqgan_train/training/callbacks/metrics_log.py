"""Logging of training and validation metrics, and the validation at the last step."""

import time
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vqgan_train.training.callbacks.non_finite import SkipNonFinite
from vqgan_train.training.data.loader import TimedLoader
from vqgan_train.training.lightning.module import TRAINING_METRICS


class MetricsLog(Callback):
    """Logs training metrics every few steps, and validation metrics after each validation.

    Every logger gets the number of optimizer steps as the step. Losses are those of the logged step
    alone, averaged over its accumulated batches and over ranks; the losses of other steps stay on
    the device, so that these steps do not wait for the GPU. Speeds are means since the last row.

    Args:
        every_steps: steps between rows of training metrics.
        non_finite: counts the skipped steps.
    """

    def __init__(self, every_steps: int, non_finite: SkipNonFinite) -> None:
        self.every_steps = every_steps
        self.non_finite = non_finite
        self.latest: dict[str, float] = {}
        """The newest row of training metrics; empty before the first."""
        self.validation_seconds: list[float] = []
        """Seconds per validation: forward passes and metrics, without pictures and checkpoints."""
        self._terms: list[Tensor] = []
        self._paused_at: float | None = None
        self._validation_started_at = 0.0
        self._window_started_at = time.perf_counter()
        self._data_seconds = 0.0
        self._images = self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock for the first row."""
        self._restart_window()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the wait for this batch to the row's total; end a pause."""
        waited: float = cast(TimedLoader, trainer.train_dataloader).fetch_seconds
        if self._paused_at is not None:
            self._window_started_at += time.perf_counter() - self._paused_at - waited
            self._paused_at = None
        self._data_seconds += waited

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Collect a batch's losses; every `every_steps` steps, log a row."""
        self._terms.append(outputs["terms"])
        self._images += len(batch["image"])
        if len(self._terms) == trainer.accumulate_grad_batches:
            self._steps += 1
            if trainer.global_step % self.every_steps == 0:
                self.latest = self._training_metrics(trainer)
                self._log(trainer, self.latest)
                self._restart_window()
            self._terms = []

    def pause(self) -> None:
        """Stop the clock until the loader is asked for the next training batch."""
        if self._paused_at is None:
            self._paused_at = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the training clock for validation, pictures and checkpoints."""
        self.pause()
        self._validation_started_at = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation metrics and the duration of the validation."""
        results = trainer.callback_metrics.items()
        # Reading the values waits for the device, so the clock is read after them.
        metrics = {name: float(v) for name, v in results if name.startswith(("val/", "data/"))}
        self.validation_seconds.append(time.perf_counter() - self._validation_started_at)
        self._log(trainer, {**metrics, "val/seconds": self.validation_seconds[-1]})

    def _training_metrics(self, trainer: Trainer) -> dict[str, float]:
        terms = trainer.strategy.reduce(torch.stack(self._terms).mean(dim=0), reduce_op="mean")
        metrics = {
            f"train/{name}": value
            for name, value in zip(TRAINING_METRICS.values(), terms.tolist(), strict=True)
        }
        seconds = time.perf_counter() - self._window_started_at
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
        return metrics | {
            "train/skipped_steps": float(self.non_finite.skipped),
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train/epoch": data.position() / len(data.train_data),
            "train/images_per_second": self._images * trainer.world_size / seconds,
            "train/step_seconds": seconds / self._steps,
            "train/data_seconds": self._data_seconds / self._steps,
        }

    def _log(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _restart_window(self) -> None:
        """Begin the measurements for the next row of training metrics."""
        self._paused_at = None
        self._window_started_at = time.perf_counter()
        self._data_seconds = 0.0
        self._images = self._steps = 0


class LastValidation(Callback):
    """Makes the trainer validate after the last step.

    Lightning validates at multiples of an interval, and whenever `should_stop` is set. So this
    callback sets it at the last step, where the trainer stops anyway.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Set `should_stop` at the last step."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
