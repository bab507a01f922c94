"""The progress bar: steps done and to do, time left, loss, images a second."""

import sys
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from vqgan_train.training.callbacks.metrics_log import MetricsLog

TERMINAL_SECONDS = 0.2
FILE_SECONDS = 30.0
"""In a log file every refresh is a line, so there are few."""


class LineWriter:
    """Stands in for a terminal: a log file gets each state of the bar as a line of its own."""

    def write(self, text: str) -> None:
        """Pass on what is not only cursor movement."""
        state = text.strip()
        if state:
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        """Pass on."""
        sys.stderr.flush()


class Progress(ProgressBar):
    """One bar over the whole run, on the first rank.

    Args:
        metrics: shows its latest values.
    """

    def __init__(self, metrics: MetricsLog) -> None:
        super().__init__()
        self.metrics = metrics
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run stands."""
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

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move on after a step, not after a batch that is only accumulated."""
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        if self.metrics.latest:
            loss = self.metrics.latest["train/loss/total"]
            speed = self.metrics.latest["train/images_per_second"]
            digits = f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
            self._bar.set_postfix_str(f"loss {loss:.3f}, {digits} images/s", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the bar stands still."""
        if self._bar is not None:
            self._bar.set_description_str("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        if self._bar is not None:
            self._bar.set_description_str("training")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before the error is told."""
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
"""What of these a run measures, as it was before and as it is now."""

LEFT_OUT = {
    "data/bad_samples": "unreadable samples",
    "data/bad_shards": "damaged or dead shards",
}
"""What the run went on without, on all ranks; shown if there is some."""

IN_DECIBELS = {"val/psnr"}
"""Of these a percentage would mean nothing."""


class Summary(Callback):
    """Remembers the first validation and compares the last with it."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.left_out: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember."""
        measured = trainer.callback_metrics
        self.last = {name: float(measured[name]) for name in COMPARED if name in measured}
        self.first = self.first or self.last
        self.left_out = {name: float(trainer.callback_metrics[name]) for name in LEFT_OUT}

    def state_dict(self) -> dict[str, Any]:
        """The first validation, so that a resumed run compares with it too."""
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the first validation of the run, not of this process."""
        self.first = state_dict["first"]

    def table(self, step: int) -> str:
        """Draw the comparison, a line a metric."""
        lines = [f"{'validation':<30}{'before':>10}{f'step {step}':>14}{'change':>10}"]
        # A run that goes on may measure other things than it did at first.
        both = {
            name: COMPARED[name] for name in COMPARED if name in self.first and name in self.last
        }
        for name, label in both.items():
            before, after = self.first[name], self.last[name]
            change = f"{(after - before) / before:+.0%}" if before else ""
            if name in IN_DECIBELS:
                change = f"{after - before:+.1f} dB"
            lines.append(f"{label:<30}{_short(before):>10}{_short(after):>14}{change:>10}")
        for name, count in self.left_out.items():
            if count:
                lines.append(f"{LEFT_OUT[name]:<30}{'':>10}{_short(count):>14}{'':>10}")
        return "\n".join(lines)


def _short(value: float) -> str:
    """Counts as they are, measurements with four digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
