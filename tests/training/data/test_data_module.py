from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import image_bytes, image_samples, write_shard

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.data.orders import FULL_SHUFFLE, FullShuffle, SampleRef
from vqgan_train.training.run.saved_state import DATA_STATE, DATA_STATE_KEYS

TRANSFORM = ImageTransform(16, 16, random_crop=False, random_flip=False)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_shard(tmp_path / "train.tar", image_samples(13)),
        write_shard(tmp_path / "val.tar", image_samples(7, first=100)),
    )


AGREEING = SimpleNamespace(
    broadcast=lambda value: value, reduce_boolean_decision=lambda decision, all: decision
)
"""Fake strategy of ranks that have the same shards."""


def fake_trainer(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "max_steps": 6,
            "global_step": 0,
            "accumulate_grad_batches": 1,
            "global_rank": 0,
            "world_size": 1,
            "strategy": AGREEING,
            **changes,
        }
    )


def make_module(
    shards: tuple[Path, Path], *, batch_size: int = 2, num_workers: int = 0, **changes: Any
) -> ShardDataModule:
    """Make a data module with a fake trainer that only has numbers."""
    module = ShardDataModule(
        train_shards=[shards[0]],
        val_shards=[shards[1]],
        store=None,
        make_order=lambda counts: FullShuffle(sum(counts), seed=4),
        train_transform=TRANSFORM,
        val_transform=TRANSFORM,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=4,
    )
    module.trainer = fake_trainer(**changes)
    module.prepare_data()
    module.setup("fit")
    return module


def train_names(module: ShardDataModule) -> list[str]:
    return [name for batch in module.train_dataloader() for name in batch["name"]]


def planned_names(position: int, count: int) -> list[str]:
    return [
        f"train.tar/{draw.sample:06d}"
        for draw in FullShuffle(13, seed=4).sample_refs(position, count)
    ]


def state_of(module: ShardDataModule, *, position: int, step: int) -> dict[str, Any]:
    """Return the data state of a checkpoint that was trained on this module's shards."""
    return {
        "position": position,
        "step": step,
        "order": FULL_SHUFFLE,
        "train_fingerprint": module.train_data.fingerprint,
        "val_fingerprint": module.val_data.fingerprint,
    }


def test_training_follows_the_plan_to_the_last_step(shards: tuple[Path, Path]) -> None:
    module = make_module(shards)
    assert len(module.train_dataloader()) == 6
    assert train_names(module) == planned_names(0, 12)


def test_accumulation_takes_more_batches_for_a_step(shards: tuple[Path, Path]) -> None:
    module = make_module(shards, accumulate_grad_batches=3)
    assert train_names(module) == planned_names(0, 36)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_validation_covers_every_image_once(
    shards: tuple[Path, Path], world_size: int, batch_size: int
) -> None:
    names: list[str] = []
    lengths, shortest = [], []
    for rank in range(world_size):
        module = make_module(shards, batch_size=batch_size, global_rank=rank, world_size=world_size)
        loader = module.val_dataloader()
        names += [name for batch in loader for name in batch["name"]]
        lengths.append(len(loader))
        shortest.append(module.num_common_val_batches())
    assert sorted(names) == [f"val.tar/{number:06d}" for number in range(100, 107)]
    assert max(lengths) - min(lengths) <= 1
    assert shortest == [min(lengths)] * world_size


def test_every_validation_sees_the_same_batches(shards: tuple[Path, Path]) -> None:
    module = make_module(shards, batch_size=3)
    first, second = (list(module.val_dataloader()) for _ in range(2))
    assert [batch["name"] for batch in first] == [batch["name"] for batch in second]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))


def test_fewer_validation_images_than_ranks_are_an_error(shards: tuple[Path, Path]) -> None:
    """The other ranks would wait for a rank without a batch."""
    module = make_module(shards, world_size=8)
    with pytest.raises(ShardError, match=r"hold 7 images, fewer than the 8 ranks"):
        module.val_dataloader()


def test_the_position_counts_what_all_ranks_have_drawn(shards: tuple[Path, Path]) -> None:
    module = make_module(shards, batch_size=2, world_size=3, accumulate_grad_batches=4)
    assert module.position() == 0
    module.trainer.global_step = 5
    assert module.position() == 5 * 4 * 2 * 3
    assert module.state_dict() == state_of(module, position=120, step=5)


def test_saved_states_are_recognised_by_the_name_and_entries_of_the_state(
    shards: tuple[Path, Path],
) -> None:
    assert ShardDataModule.__qualname__ == DATA_STATE
    assert make_module(shards).state_dict().keys() == DATA_STATE_KEYS | {"order"}


def test_a_resumed_run_goes_on_where_it_stopped(shards: tuple[Path, Path]) -> None:
    module = make_module(shards)
    module.trainer.global_step = 4
    state = module.state_dict()
    resumed = make_module(shards)
    resumed.load_state_dict(state)
    assert train_names(resumed) == planned_names(8, 4)


def test_a_resumed_run_may_have_other_batches_and_ranks(shards: tuple[Path, Path]) -> None:
    module = make_module(shards, batch_size=2, world_size=2, accumulate_grad_batches=2)
    module.trainer.global_step = 3  # 24 samples
    state = module.state_dict()

    ranks = []
    for rank in range(3):
        resumed = make_module(shards, batch_size=5, world_size=3, global_rank=rank)
        resumed.load_state_dict(state)
        resumed.trainer.global_step = 3
        assert resumed.position() == 24
        ranks.append(train_names(resumed))
        resumed.trainer.global_step = 6
        assert resumed.state_dict() == state_of(resumed, position=24 + 3 * 15, step=6)
    drawn = [
        name for step in range(3) for names in ranks for name in names[5 * step : 5 * step + 5]
    ]
    assert drawn == planned_names(24, 45)


def test_a_run_resumed_twice_counts_from_the_last_time(shards: tuple[Path, Path]) -> None:
    module = make_module(shards, batch_size=2)
    module.load_state_dict(state_of(module, position=100, step=10))
    module.trainer.global_step = 12
    again = make_module(shards, batch_size=4)
    again.load_state_dict(module.state_dict())
    again.trainer.global_step = 13
    assert again.state_dict() == state_of(again, position=108, step=13)


def test_a_finished_run_has_nothing_left(shards: tuple[Path, Path]) -> None:
    module = make_module(shards)
    module.load_state_dict(state_of(module, position=20, step=9))
    assert train_names(module) == []


def test_shards_that_were_moved_are_the_same(shards: tuple[Path, Path], tmp_path: Path) -> None:
    module = make_module(shards)
    moved = [tmp_path / "elsewhere" / shard.name for shard in shards]
    moved[0].parent.mkdir()
    for shard, target in zip(shards, moved, strict=True):
        shard.rename(target)
    resumed = make_module((moved[0], moved[1]))
    resumed.load_state_dict(state_of(module, position=8, step=4))
    assert train_names(resumed) == planned_names(8, 4)


def test_other_shards_have_no_place_to_go_on_from(shards: tuple[Path, Path]) -> None:
    module = make_module(shards)
    state = state_of(module, position=8, step=4)
    write_shard(shards[0], image_samples(5))
    with pytest.raises(ShardError, match=r"(?s)not the shards .*model.init_from=CHECKPOINT"):
        make_module(shards).load_state_dict(state)


def test_other_validation_shards_are_said(
    shards: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    module = make_module(shards)
    state = state_of(module, position=8, step=4)
    module.compare_validation(state)
    assert not caplog.text
    write_shard(shards[1], image_samples(5, first=70))
    make_module(shards).compare_validation(state)
    assert "data.val_shards are not those that the checkpoint was validated on" in caplog.text


def test_making_and_reading_loaders_leaves_torchs_random_state_alone(
    shards: tuple[Path, Path],
) -> None:
    module = make_module(shards)
    before = torch.get_rng_state()
    train_names(module)
    list(module.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing(shards: tuple[Path, Path]) -> None:
    assert train_names(make_module(shards, num_workers=2)) == planned_names(0, 12)


def test_the_first_validation_images_skip_unreadable_ones(shards: tuple[Path, Path]) -> None:
    good = [image_bytes(16, 16, seed=seed) for seed in range(3)]
    contents = [b"broken", good[0], b"", *good[1:]]
    write_shard(shards[1], ({"__key__": f"{n}", "png": c} for n, c in enumerate(contents)))
    module = make_module(shards)
    expected = torch.stack([TRANSFORM(content, np.random.default_rng()) for content in good])
    assert torch.equal(module.first_val_images(2), expected[:2])
    assert torch.equal(module.first_val_images(99), expected)


def test_no_more_validation_images_are_read_than_asked_for(
    shards: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(shards)
    read = []
    original = type(module.val_data).__getitem__

    def record(data: Any, draw: SampleRef) -> Any:
        read.append(draw.sample)
        return original(data, draw)

    monkeypatch.setattr(type(module.val_data), "__getitem__", record)
    assert module.first_val_images(3).shape == (3, 3, 16, 16)
    assert read == [0, 1, 2]


def test_a_batch_keeps_its_names_on_the_way_to_the_device(shards: tuple[Path, Path]) -> None:
    batch = {"image": torch.ones(2, 3, 2, 2, dtype=torch.uint8), "name": ["a"], "bad": ["b"]}
    moved = make_module(shards).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["image"].device.type == "meta"
    assert moved["image"].dtype == torch.float32
    assert moved["name"] == ["a"]
    assert moved["bad"] == ["b"]


def test_workers_send_bytes_and_the_device_makes_the_floats_of_the_transform(
    shards: tuple[Path, Path],
) -> None:
    module = make_module(shards)
    batch = next(iter(module.val_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    written = [TRANSFORM(sample["png"]) for sample in image_samples(2, first=100)]
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(moved["image"], torch.stack(written))
    assert moved["image"].is_contiguous()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_training_batch_has_its_shape_whatever_cannot_be_read(
    shards: tuple[Path, Path], lost: int
) -> None:
    samples = image_samples(13)
    for ref in FullShuffle(13, seed=4).sample_refs(0, lost):
        samples[ref.sample]["png"] = b"broken"
    write_shard(shards[0], samples)
    module = make_module(shards)
    batch = next(iter(module.train_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert moved["image"].shape == (2, 3, 16, 16)
    assert len(moved["bad"]) == lost
    # Without an image, all are NaN, and the step is skipped.
    assert bool(moved["image"].isnan().all()) == bool(moved["image"].isnan().any()) == (lost == 2)
