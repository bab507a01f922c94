"""Data that end before the run."""

from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.data import ShardError


class WholeData(Callback):
    """Ends a run whose loader ends early; Lightning would begin it again, and repeat images."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loader of a run has as many batches as the run: all of it is one epoch.

        Raises:
            ShardError: there are steps left.
        """
        if trainer.global_step < trainer.max_steps:
            raise ShardError(
                f"The training data of rank {trainer.global_rank} ended at step "
                f"{trainer.global_step} of {trainer.max_steps}."
            )
