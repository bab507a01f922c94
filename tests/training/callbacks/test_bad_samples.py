"""Unreadable samples and dead shards: logged and counted; too many stop the run."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from factories import image_samples, write_shard
from tiny_runs import rows, tiny_config, tiny_overrides

from vqgan_train.system.errors import ShardError
from vqgan_train.training.callbacks import bad_samples
from vqgan_train.training.callbacks.bad_samples import BadSamples
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")


def batch(good: int, *bad: str) -> dict[str, Any]:
    return {"image": torch.zeros(good, 3, 1, 1), "name": ["x"] * good, "bad": list(bad)}


def see(callback: BadSamples, *batches: dict[str, Any]) -> None:
    """Pass validation batches of sources that work to the callback."""
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(is_source_away=lambda: False))
    for number, seen in enumerate(batches):
        callback.on_validation_batch_start(trainer, None, seen, number)  # type: ignore[arg-type]


def damage(folder: Path, *numbers: int, samples: int = 9) -> None:
    """Write a training shard in which the samples with these numbers are not images."""
    tiny_overrides(folder)
    samples_written = image_samples(samples)
    for number in numbers:
        samples_written[number]["png"] = b"no image"
    write_shard(folder / "train.tar", samples_written)


def test_samples_are_named_one_by_one_and_later_every_hundredth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(bad_samples.log, "warning", lambda text, *args: lines.append(text % args))
    callback = BadSamples(0.9)
    see(callback, *(batch(1, f"a.tar/{number}: broken") for number in range(1, 251)))
    assert lines == [
        f"Skipped an unreadable sample (no. {number}): a.tar/{number}: broken"
        for number in [*range(1, 11), 100, 200]
    ]
    assert (callback.bad, callback.seen) == (250, 500)


def test_the_run_stops_beyond_the_fraction_and_names_the_sample() -> None:
    callback = BadSamples(0.1)
    see(callback, *[batch(9, "a.tar/0: broken")] * 30)
    with pytest.raises(ShardError, match=r"31 of 301 .*max_bad_fraction=0.1 .* a.tar/7: no jpg"):
        see(callback, batch(0, "a.tar/7: no jpg"))


def test_one_of_the_first_hundred_is_no_reason_to_stop() -> None:
    see(BadSamples(0.01), batch(1, "a.tar/0: broken"))
    with pytest.raises(ShardError, match="2 of 3 samples"):
        see(BadSamples(0.01), batch(1, "a.tar/0: broken", "a.tar/1: broken"))


def test_zero_stops_at_the_first() -> None:
    with pytest.raises(ShardError, match="1 of 1001 samples"):
        see(BadSamples(0.0), batch(1000), batch(0, "a.tar/0: broken"))


def test_a_run_goes_on_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(tmp_path, 3)
    # Five steps of 2 images use each of the 9 samples at least once.
    trainer = train(tiny_config(tmp_path, "run.max_steps=5", "data.max_bad_fraction=0.1"))
    assert trainer is not None
    assert trainer.global_step == 5
    assert torch.backends.cudnn.benchmark, "because each batch had the same shape"
    out = capsys.readouterr().out
    assert "Skipped an unreadable sample (no. 1): train.tar/000003: " in out


def test_names_that_nothing_can_show_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(bad_samples.log, "warning", lambda text, *args: lines.append(text % args))
    see(BadSamples(0.9), batch(9, "a.tar/\x1b[2J\n\udcff: broken"))
    assert lines == [r"Skipped an unreadable sample (no. 1): 'a.tar/\x1b[2J\n\udcff: broken'"]


def test_a_run_goes_on_without_dead_and_vanishing_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_overrides(tmp_path)
    write_shard(tmp_path / "train-0.tar", image_samples(9))
    (tmp_path / "train-1.tar").touch()
    write_shard(tmp_path / "train-2.tar", image_samples(1, first=50))
    step = VQGANModule.training_step

    def lose_a_shard(module: VQGANModule, batch: dict[str, Any]) -> Any:
        (tmp_path / "train-2.tar").unlink(missing_ok=True)
        return step(module, batch)

    monkeypatch.setattr(VQGANModule, "training_step", lose_a_shard)
    shards = f"data.train_shards='{tmp_path}/train-*.tar'"
    train(tiny_config(tmp_path, shards, "run.max_steps=10", "data.max_bad_fraction=0.1"))
    out = capsys.readouterr().out
    assert re.search(r"dead shard: \S*train-1\.tar holds no sample", out)
    assert "train-2.tar/sample 0: " in out
    assert re.search(r"^unreadable samples +[12] *$", out, re.MULTILINE)
    assert re.search(r"^damaged or dead shards +1 *$", out, re.MULTILINE)
    last = rows(tmp_path / "run")[-1]
    assert float(last["data/bad_samples"]) >= 1
    assert float(last["data/bad_shards"]) == 1


def test_too_many_dead_shards_end_a_run_before_it_trains(tmp_path: Path) -> None:
    tiny_overrides(tmp_path)
    write_shard(tmp_path / "train-0.tar", image_samples(9))
    for number in (1, 2):
        (tmp_path / f"train-{number}.tar").touch()
    shards = f"data.train_shards='{tmp_path}/train-*.tar'"
    with pytest.raises(ShardError, match=r"2 of 4 shards hold nothing .*train-1\.tar holds no"):
        train(tiny_config(tmp_path, shards))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_with_too_many_ends_before_it_trains_on_what_is_left(tmp_path: Path) -> None:
    damage(tmp_path, *range(1, 9))
    with pytest.raises(ShardError, match=r"train.tar/00000\d: "):
        train(tiny_config(tmp_path))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_that_was_killed_counts_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(tmp_path, 3)
    step = VQGANModule.training_step

    def die_in_the_fourth(module: VQGANModule, batch: dict[str, Any]) -> Any:
        if module.global_step == 3:
            raise KeyError("killed")
        return step(module, batch)

    monkeypatch.setattr(VQGANModule, "training_step", die_in_the_fourth)
    with pytest.raises(KeyError, match="killed"):
        train(tiny_config(tmp_path, "data.max_bad_fraction=0.5"))
    monkeypatch.setattr(VQGANModule, "training_step", step)
    train(tiny_config(tmp_path, "data.max_bad_fraction=0.5", "run.max_steps=5"))

    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    counts = last["bad_samples"]
    # Five steps of two images; the five validation samples count once.
    assert counts["seen"] == 5 * 2 + 5
    assert counts["bad"] in (1, 2)


def test_a_resume_goes_on_from_what_all_ranks_counted() -> None:
    others = torch.tensor([4, 100])
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(reduce=lambda own, reduce_op: own + others), is_global_zero=True
    )
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    counting, resumed = BadSamples(0.9), BadSamples(0.9)
    see(counting, batch(7, "a.tar/0: broken"))
    checkpoint: dict[str, Any] = {}
    counting.on_save_checkpoint(trainer, module, checkpoint)
    assert checkpoint["bad_samples"] == {"bad": 5, "seen": 108, "validated": False}
    resumed.on_load_checkpoint(trainer, module, checkpoint)
    see(resumed, batch(1, "a.tar/1: broken"))
    resumed.on_save_checkpoint(trainer, module, checkpoint)
    assert checkpoint["bad_samples"] == {
        "bad": 5 + 1 + 4,
        "seen": 108 + 2 + 100,
        "validated": False,
    }


@pytest.mark.parametrize(("is_first_rank", "expected"), [(True, 5 + 1), (False, 1)])
def test_what_was_counted_before_a_resume_is_added_by_one_rank_alone(
    is_first_rank: bool, expected: int
) -> None:
    counting = BadSamples(0.9)
    state = {"bad_samples": {"bad": 5, "seen": 100, "validated": False}}
    counting.on_load_checkpoint(None, None, state)  # type: ignore[arg-type]
    see(counting, batch(1, "a.tar/1: broken"))
    logged: dict[str, tuple[float, str]] = {}

    def log(name: str, value: float, *, reduce_fx: str, sync_dist: bool, logger: bool) -> None:
        assert sync_dist
        logged[name] = (value, reduce_fx)

    trainer: Any = SimpleNamespace(
        is_global_zero=is_first_rank, datamodule=SimpleNamespace(num_bad_shards=lambda: 2)
    )
    module: Any = SimpleNamespace(log=log)
    counting.on_validation_epoch_end(trainer, module)
    # Samples are summed over ranks. Shards are not, because all ranks read the same ones.
    assert logged == {"data/bad_samples": (expected, "sum"), "data/bad_shards": (2, "max")}


def test_a_batch_without_an_image_is_a_step_left_out(tmp_path: Path) -> None:
    damage(tmp_path, 3)
    one_by_one = ("data.batch_size=1", "run.max_steps=9", "data.max_bad_fraction=0.1")
    trainer = train(tiny_config(tmp_path, *one_by_one))
    assert trainer is not None
    assert all(weight.isfinite().all() for weight in trainer.lightning_module.state_dict().values())
    skipped = [r["train/skipped_steps"] for r in rows(tmp_path / "run") if r["train/skipped_steps"]]
    assert skipped[-1] == "1.0", "nine steps of nine samples"
    bad = [row["data/bad_samples"] for row in rows(tmp_path / "run") if row["data/bad_samples"]]
    assert bad[-1] == "1.0"
