"""All ranks begin at one step of one run, and each says what it does in a file of the run's."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.rank_log import RankLog
from vqgan_train.run_folder import RunFolderError


class SameStart(Callback):
    """Tells the ranks which folder the first one took, before anything is done together.

    Args:
        folder: the run's; only the first rank's counts.
        step: optimizer steps that this rank finds behind it.
        rank_log: what this rank says.
    """

    def __init__(self, folder: Path, step: int, rank_log: RankLog) -> None:
        self.folder = folder
        self.step = step
        self.rank_log = rank_log

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the first rank.

        Raises:
            RunFolderError: this rank would begin at another step.
        """
        folder, step = trainer.strategy.broadcast((str(self.folder), self.step))
        self.rank_log.open(Path(folder))
        agrees = step == self.step
        if not trainer.strategy.reduce_boolean_decision(agrees, all=True):
            raise RunFolderError(
                f"Rank {trainer.global_rank} begins at step {self.step}, the first rank at step "
                f"{step}. run.output_dir={folder} has to be on a file system that all machines of "
                "the run share."
            )
