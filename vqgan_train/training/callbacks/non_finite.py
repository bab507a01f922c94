"""Skipping of optimizer steps with NaN or infinite gradients."""

from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vqgan_train.models import PatchDiscriminator
from vqgan_train.system.errors import UserError


class SkipNonFinite(Callback):
    """Skips optimizer steps whose gradient has NaN or infinite values.

    A skipped step leaves the weights, Adam's moments and the discriminator's BatchNorm statistics
    unchanged. It counts as a step, and its images count as seen. All ranks skip the same steps,
    because the gradient is averaged over ranks first.

    Args:
        max_in_row: number of consecutive skipped steps at which the run stops.
        every_steps: steps between checks of that number; each check waits for the GPU.
    """

    def __init__(self, max_in_row: int, every_steps: int) -> None:
        self.max_in_row = max_in_row
        self.every_steps = every_steps
        self.skipped = torch.zeros(())
        """() float32: number of skipped steps since the start of the run."""
        self._in_row = self._longest_row = torch.zeros(())
        self._statistics_before: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the counters to the device of the gradients."""
        counters = (self.skipped, self._in_row, self._longest_row)
        self.skipped, self._in_row, self._longest_row = (n.to(pl_module.device) for n in counters)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy the BatchNorm statistics before a step's first forward pass changes them."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._statistics_before = [buffer.clone() for buffer in _statistics(pl_module)]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Skip a step whose gradient norm is NaN or infinite; undo its BatchNorm update."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        is_bad = (~norm.isfinite()).float()
        # The fused Adam reads found_inf on the device, as it does for fp16's GradScaler. An `if`
        # here would make every step wait for the GPU.
        optimizer.found_inf = is_bad  # type: ignore[attr-defined]  # set by GradScaler, undeclared
        self.skipped += is_bad
        self._in_row = (self._in_row + 1) * is_bad
        self._longest_row = torch.maximum(self._longest_row, self._in_row)
        for buffer, before in zip(_statistics(pl_module), self._statistics_before, strict=True):
            buffer.copy_(torch.where(is_bad.bool(), before, buffer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Every `every_steps` steps, check the longest streak of skipped steps.

        Raises:
            UserError: at least `max_in_row` consecutive steps were skipped.
        """
        if trainer.global_step % self.every_steps == 0 and self._longest_row >= self.max_in_row:
            raise UserError(
                f"{int(self._longest_row)} steps in a row had a NaN or infinite loss or gradient "
                f"and were skipped (optim.max_skipped_steps={self.max_in_row}). Lower "
                "optim.learning_rate or optim.clip_norm; in fp16 or bf16, also try "
                "trainer.precision=fp32."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of skipped steps: in all, and in the current row."""
        return {"skipped": float(self.skipped), "in_row": float(self._in_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting from a checkpoint."""
        self.skipped = torch.tensor(state_dict["skipped"])
        self._in_row = torch.tensor(state_dict["in_row"])


def _statistics(pl_module: LightningModule) -> list[Tensor]:
    """List the discriminator's buffers: means, variances and batch counts of its BatchNorm."""
    return list(cast(PatchDiscriminator, pl_module.discriminator).buffers())
