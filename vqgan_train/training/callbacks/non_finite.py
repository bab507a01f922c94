"""Steps whose numbers went wrong: left out, counted, and the end of a run when they go on."""

from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from vqgan_train.models import PatchDiscriminator
from vqgan_train.system.errors import UserError


class NonFiniteError(UserError):
    """Losses or gradients are not finite any more."""


class SkipNonFinite(Callback):
    """Makes a step whose gradient is not finite leave everything as it was.

    Weights, Adam's moments and the discriminator's statistics stay; the data goes on, and so does
    the clock. Everything is decided on the device: the optimizer's kernels read `found_inf` as they
    do for fp16, so no step waits for an answer. Ranks decide alike, since they share the gradient.

    Args:
        max_in_row: skipped steps in a row at which the run stops.
        every_steps: steps between looks at the count.
    """

    def __init__(self, max_in_row: int, every_steps: int) -> None:
        self.max_in_row = max_in_row
        self.every_steps = every_steps
        self.skipped = torch.zeros(())
        """() float32: skipped steps of the run."""
        self._in_row = self._longest = torch.zeros(())
        self._statistics: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count where the gradients are."""
        counts = (self.skipped, self._in_row, self._longest)
        self.skipped, self._in_row, self._longest = (n.to(pl_module.device) for n in counts)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the statistics that a forward pass moves, at a step's first batch."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._statistics = [buffer.clone() for buffer in _statistics(pl_module)]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step by its gradient."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        is_bad = (~norm.isfinite()).float()
        optimizer.found_inf = is_bad  # type: ignore[attr-defined]  # torch's own way, for GradScaler
        self.skipped += is_bad
        self._in_row = (self._in_row + 1) * is_bad
        self._longest = torch.maximum(self._longest, self._in_row)
        for buffer, before in zip(_statistics(pl_module), self._statistics, strict=True):
            buffer.copy_(torch.where(is_bad.bool(), before, buffer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the longest row so far now and then, so that none is missed.

        Raises:
            NonFiniteError: too many steps in a row were skipped.
        """
        if trainer.global_step % self.every_steps == 0 and self._longest >= self.max_in_row:
            raise NonFiniteError(
                f"{int(self._longest)} steps in a row had a loss or gradient that is not finite "
                f"and were skipped (optim.max_skipped_steps={self.max_in_row}). Lower "
                "optim.learning_rate, set optim.clip_norm, or take trainer.precision=fp32."
            )

    def state_dict(self) -> dict[str, Any]:
        """The count, so that a resumed run goes on counting."""
        return {"skipped": float(self.skipped), "in_row": float(self._in_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped = torch.tensor(state_dict["skipped"])
        self._in_row = torch.tensor(state_dict["in_row"])


def _statistics(pl_module: LightningModule) -> list[Tensor]:
    """Buffers of the discriminator: means, variances and counts of its BatchNorm."""
    return list(cast(PatchDiscriminator, pl_module.discriminator).buffers())
