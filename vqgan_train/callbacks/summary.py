"""What a person wants to know at the end of a run."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

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
