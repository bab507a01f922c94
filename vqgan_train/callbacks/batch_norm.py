"""One set of discriminator statistics for all ranks."""

from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from vqgan_train.models import PatchDiscriminator


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
