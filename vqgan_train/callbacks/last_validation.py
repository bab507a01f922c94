"""A validation after the last step, wherever the interval falls."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class LastValidation(Callback):
    """Makes the trainer validate once more before it stops.

    Lightning validates at multiples of an interval, and when it is asked to stop: so it is asked,
    at the step at which it would stop anyway.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask at the last step."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
