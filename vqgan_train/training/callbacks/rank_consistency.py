"""All ranks begin at one step, with one set of settings, and each has a file to say so."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.models import PatchDiscriminator
from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.run.logs import RankLog
from vqgan_train.training.run.settings_comparison import differences, different_settings

OF_A_MACHINE = re.compile(
    r"data\.(train_shards|val_shards|cache_dir|cache_gb|num_workers)$|model\.init_from$"
    r"|loss\.lpips_weights$|run\.(alexnet_weights|output_dir)$"
)
"""Settings that may differ between ranks: where things lie on a machine, and what it can do.

Whether the shards are the same ones is told by their fingerprint, and the folder is the first
rank's for all.
"""


class SameStart(Callback):
    """Tells the ranks which folder the first one took, before anything is done together.

    Args:
        folder: the run's; only the first rank's counts.
        step: optimizer steps that this rank finds behind it.
        settings: what this rank was given: nested plain values.
        rank_log: what this rank says.
    """

    def __init__(
        self, folder: Path, step: int, settings: Mapping[str, Any], rank_log: RankLog
    ) -> None:
        self.folder = folder
        self.step = step
        self.settings = settings
        self.rank_log = rank_log

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the first rank.

        Raises:
            RunFolderError: a rank would begin at another step, or was given other settings.
        """
        folder, step, settings = trainer.strategy.broadcast(
            (str(self.folder), self.step, self.settings)
        )
        self.rank_log.open(Path(folder))
        problem = self._problem(trainer.global_rank, folder, step, settings)
        if not trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            raise RunFolderError(
                problem or "Another rank was given other settings, or finds another step; it says."
            )

    def _problem(
        self, rank: int, folder: str, step: int, settings: Mapping[str, Any]
    ) -> str | None:
        """What keeps this rank from beginning with the first one."""
        different = different_settings(settings, self.settings, OF_A_MACHINE)
        own_folder = self.settings["run"]["output_dir"]
        if own_folder not in (None, folder):
            different["run.output_dir"] = (folder, own_folder)
        if different:
            return (
                f"Rank {rank} was given other settings than the first rank:\n"
                f"{differences(different, 'there', 'here')}\n"
                "Start all ranks with the same ones."
            )
        if step != self.step:
            return (
                f"Rank {rank} begins at step {self.step}, the first rank at step {step}. "
                f"run.output_dir={folder} has to be on a file system that all machines of the run "
                "share."
            )
        return None


class AverageBatchNorm(Callback):
    """Averages the discriminator's running statistics over ranks after every batch.

    A rank normalises by its own batch, as the original does. But what is kept for later would
    differ from rank to rank: DistributedDataParallel's own remedy sends every buffer before every
    forward pass, the 59 MB of LPIPS among them, and stalls where ranks have unequal numbers of
    validation batches. These statistics are one small message.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average over ranks."""
        if trainer.world_size == 1:
            return
        buffers = cast(PatchDiscriminator, pl_module.discriminator).buffers()
        statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        joined = torch.cat([statistic.flatten() for statistic in statistics])
        joined = trainer.strategy.reduce(joined, reduce_op="mean")
        sizes = [statistic.numel() for statistic in statistics]
        for statistic, mean in zip(statistics, joined.split(sizes), strict=True):
            statistic.copy_(mean.view_as(statistic))
