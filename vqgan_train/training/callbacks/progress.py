"""Progress of a run: a bar during training, and a table of metrics at the end."""

import sys
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from vqgan_train.training.callbacks.metrics_log import MetricsLog

TERMINAL_SECONDS = 0.2
"""Seconds between refreshes of the bar in a terminal."""

FILE_SECONDS = 30.0
"""Seconds between refreshes in a log file, where each refresh is a line."""


class LineWriter:
    """File for tqdm that writes each state of the bar to stderr as a line of its own."""

    def write(self, text: str) -> None:
        """Write a line to stderr, unless the text only moves the cursor."""
        state = text.strip()
        if state:
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


class Progress(ProgressBar):
    """Progress bar over the whole run, on the first rank: steps, time left, loss, images/s.

    Args:
        metrics: provides the loss and the speed.
    """

    def __init__(self, metrics: MetricsLog) -> None:
        super().__init__()
        self.metrics = metrics
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Hide the bar; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the current step."""
        in_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc="training",
            initial=trainer.global_step,
            total=trainer.max_steps,
            unit="step",
            disable=not self._enabled,
            file=sys.stderr if in_terminal else LineWriter(),
            dynamic_ncols=in_terminal,
            mininterval=TERMINAL_SECONDS if in_terminal else FILE_SECONDS,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Advance the bar after the last accumulated batch of a step."""
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        if self.metrics.latest:
            loss = self.metrics.latest["train/loss/total"]
            speed = self.metrics.latest["train/images_per_second"]
            digits = f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
            self._bar.set_postfix_str(f"loss {loss:.3f}, {digits} images/s", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Label the bar, which does not move during validation."""
        if self._bar is not None:
            self._bar.set_description_str("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the label."""
        if self._bar is not None:
            self._bar.set_description_str("training")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Close the bar before the error is printed."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


COMPARED = {
    "val/loss/reconstruction": "reconstruction (L1 + LPIPS)",
    "val/loss/perceptual": "LPIPS",
    "val/loss/pixel": "L1",
    "val/psnr": "PSNR",
    "val/ssim": "SSIM",
    "val/lpips_alexnet": "LPIPS AlexNet",
    "val/codebook/used": "codes used",
}
"""Metrics shown in the before/after table, if the run measures them, and their labels."""

SKIPPED_DATA = {
    "data/bad_samples": "unreadable samples",
    "data/bad_shards": "damaged or dead shards",
}
"""Counts of unusable samples and shards on all ranks, and their labels; shown if nonzero."""

IN_DECIBELS = {"val/psnr"}
"""Metrics whose change is shown in dB; on their logarithmic scale a percentage has no meaning."""


class ValidationSummary(Callback):
    """Compares the last validation with the first one of the run."""

    state_key = "Summary"  # key in checkpoints, old ones too

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.skipped_data: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the metrics of this validation."""
        metrics = trainer.callback_metrics
        self.last = {name: float(metrics[name]) for name in COMPARED if name in metrics}
        self.first = self.first or self.last
        self.skipped_data = {name: float(metrics[name]) for name in SKIPPED_DATA}

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics of the first validation."""
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the first validation of the run, for the comparison after a resume."""
        self.first = state_dict["first"]

    def table(self, step: int) -> str:
        """Format the comparison, one line per metric; `step` is the step of the last validation."""
        lines = [f"{'validation':<30}{'before':>10}{f'step {step}':>14}{'change':>10}"]
        for name, label in COMPARED.items():
            # A resumed run may measure other metrics than it did at first.
            if name not in self.first or name not in self.last:
                continue
            before, after = self.first[name], self.last[name]
            change = f"{(after - before) / before:+.0%}" if before else ""
            if name in IN_DECIBELS:
                change = f"{after - before:+.1f} dB"
            lines.append(f"{label:<30}{_short(before):>10}{_short(after):>14}{change:>10}")
        for name, count in self.skipped_data.items():
            if count:
                lines.append(f"{SKIPPED_DATA[name]:<30}{'':>10}{_short(count):>14}{'':>10}")
        return "\n".join(lines)


def _short(value: float) -> str:
    """Format a whole number in full, and any other with four significant digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
