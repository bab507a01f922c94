"""Averages of the discriminator's BatchNorm statistics over ranks."""

from types import SimpleNamespace
from typing import Any

import torch
from factories import tiny_discriminator, tiny_images
from torch import Tensor

from vqgan_train.models import PatchDiscriminator
from vqgan_train.training.callbacks.rank_consistency import BatchNormAverage


def seen_by(discriminator: PatchDiscriminator, seed: int) -> dict[str, Tensor]:
    """Pass one batch through a discriminator; return its buffers."""
    discriminator.train()(tiny_images(seed=seed))
    return {name: buffer.clone() for name, buffer in discriminator.named_buffers()}


def average_over_two(mine: PatchDiscriminator, theirs: PatchDiscriminator) -> None:
    """Call the callback as the first of two ranks; `theirs` is the second rank's discriminator."""
    others = torch.cat([b.flatten() for b in theirs.buffers() if b.is_floating_point()])

    def reduce(own: Tensor, reduce_op: str) -> Tensor:
        both = torch.stack([own, others])
        return {"mean": both.mean(dim=0), "sum": both.sum(dim=0)}[reduce_op]

    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))
    module: Any = SimpleNamespace(discriminator=mine)
    BatchNormAverage().on_train_batch_end(trainer, module, None, None, 0)


def test_two_ranks_keep_the_mean_of_their_statistics() -> None:
    mine, theirs = tiny_discriminator(), tiny_discriminator()
    own, others = seen_by(mine, 0), seen_by(theirs, 1)
    average_over_two(mine, theirs)
    after = dict(mine.named_buffers())
    statistics = [name for name in own if "running" in name]
    assert len(statistics) == 4
    for name in statistics:
        assert not torch.equal(own[name], others[name])
        torch.testing.assert_close(after[name], (own[name] + others[name]) / 2, msg=name)


def test_the_number_of_batches_is_each_ranks_own() -> None:
    mine, theirs = tiny_discriminator(), tiny_discriminator()
    seen_by(mine, 0)
    average_over_two(mine, theirs)
    counts = [b.item() for name, b in mine.named_buffers() if name.endswith("tracked")]
    assert counts == [1, 1]
