"""Consistency between ranks: the same settings and start step, and equal BatchNorm statistics."""

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

# Paths and resources of a machine. The data module compares the content of the shards over ranks,
# and `SameStartCheck` compares run.output_dir with the first rank's folder.
MACHINE_SETTINGS = re.compile(
    r"data\.(train_shards|val_shards|cache_dir|cache_gb|num_workers)$|model\.init_from$"
    r"|loss\.lpips_weights$|run\.(alexnet_weights|output_dir)$"
)
"""Names of the settings that may differ between ranks."""


class SameStartCheck(Callback):
    """Compares settings and start step with the first rank's, before training starts.

    It also opens this rank's log in the run folder that the first rank chose.

    Args:
        folder: the run's folder; only the first rank's value is used.
        step: number of optimizer steps that this rank found in the run's checkpoint.
        settings: settings that this rank was started with: nested plain values.
        rank_log: log of this rank.
    """

    def __init__(
        self, folder: Path, step: int, settings: Mapping[str, Any], rank_log: RankLog
    ) -> None:
        self.folder = folder
        self.step = step
        self.settings = settings
        self.rank_log = rank_log

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare this rank with the first one.

        Raises:
            RunFolderError: on all ranks, if any rank has other settings or another start step.
        """
        folder, step, settings = trainer.strategy.broadcast(
            (str(self.folder), self.step, self.settings)
        )
        self.rank_log.open(Path(folder))
        problem = self._problem(trainer.global_rank, folder, step, settings)
        if not trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            raise RunFolderError(
                problem
                or "Another rank has other settings or another start step than the first rank. "
                f"Its error, above or in {self.rank_log.place}, names them."
            )

    def _problem(
        self, rank: int, folder: str, step: int, settings: Mapping[str, Any]
    ) -> str | None:
        """Describe how this rank differs from the first one; None if it does not."""
        different = different_settings(settings, self.settings, MACHINE_SETTINGS)
        folder_setting = self.settings["run"]["output_dir"]
        if folder_setting not in (None, folder):
            different["run.output_dir"] = (folder, folder_setting)
        if different:
            return (
                f"Rank {rank} has other settings than the first rank:\n"
                f"{differences(different, 'on the first rank', 'here')}\n"
                "Start all ranks with the same settings."
            )
        if step != self.step:
            return (
                f"Rank {rank} begins at step {self.step}, the first rank at step {step}: they "
                f"found different checkpoints. run.output_dir={folder} has to be on a file system "
                "that all machines of the run share."
            )
        return None


class BatchNormAverage(Callback):
    """Averages the discriminator's BatchNorm statistics over ranks after every batch.

    Without trainer.sync_batchnorm, each rank normalises by its own batch, so the running means and
    variances would differ between ranks. DistributedDataParallel's own remedy (broadcast_buffers)
    sends all buffers before every forward pass, LPIPS' 59 MB among them, and hangs if ranks have
    unequal numbers of validation batches. The statistics alone are 3 kB with model=f16_16384.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Replace running means and variances by their averages over ranks."""
        if trainer.world_size == 1:
            return
        buffers = cast(PatchDiscriminator, pl_module.discriminator).buffers()
        statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        means = torch.cat([statistic.flatten() for statistic in statistics])
        means = trainer.strategy.reduce(means, reduce_op="mean")
        sizes = [statistic.numel() for statistic in statistics]
        for statistic, mean in zip(statistics, means.split(sizes), strict=True):
            statistic.copy_(mean.view_as(statistic))
