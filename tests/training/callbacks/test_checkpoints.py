"""Times at which last.ckpt and best.ckpt are written, and a disk that is full."""

import csv
import errno
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn
from tiny_runs import tiny_config, tiny_overrides

from vqgan_train import __main__ as entry
from vqgan_train.checkpoint.writing import copy_atomically, save_atomically
from vqgan_train.training.callbacks import checkpoints
from vqgan_train.training.callbacks.checkpoints import Checkpoints
from vqgan_train.training.lightning import checkpoint_io as runtime
from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Names and steps of the checkpoints written or copied after this call, in order."""
    names: list[tuple[str, int]] = []

    def remember(checkpoint: dict[str, Any], path: Path) -> None:
        names.append((path.name, checkpoint["global_step"]))
        save_atomically(checkpoint, path)

    def remember_copy(source: Path, path: Path) -> None:
        names.append((path.name, torch.load(source, weights_only=True)["global_step"]))
        copy_atomically(source, path)

    monkeypatch.setattr(runtime, "save_atomically", remember)
    monkeypatch.setattr(checkpoints, "copy_atomically", remember_copy)
    return names


def load(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "run" / "checkpoints" / name, weights_only=True)


def test_the_last_is_written_at_its_interval_and_at_the_end(
    tmp_path: Path, written: list[tuple[str, int]]
) -> None:
    intervals = ("run.max_steps=5", "run.checkpoint_every_steps=2", "run.val_every_steps=9")
    train(tiny_config(tmp_path, *intervals))
    assert [step for name, step in written if name == "last.ckpt"] == [2, 4, 5]


def test_the_last_is_a_copy_of_the_best_of_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialised: list[tuple[str, int]] = []

    def remember(trainer: Trainer, path: Path) -> None:
        serialised.append((path.name, trainer.global_step))
        save(trainer, path)

    save = Trainer.save_checkpoint
    monkeypatch.setattr(Trainer, "save_checkpoint", remember)
    script(monkeypatch, "val/psnr", [0.0, 0.0, 20.0, 0.0, 10.0])
    intervals = ("run.val_every_steps=2", "run.checkpoint_every_steps=1")
    train(tiny_config(tmp_path, *intervals, "run.best_metric=val/psnr"))
    assert serialised == [("last.ckpt", 1), ("best.ckpt", 2), ("last.ckpt", 3), ("last.ckpt", 4)]
    again = tmp_path / "copies"
    again.mkdir()
    train(tiny_config(again, *intervals, "run.best_metric=val/psnr", "run.max_steps=2"))
    best, last = (again / "run" / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    assert best.read_bytes() == last.read_bytes()
    assert best.stat().st_ino != last.stat().st_ino


def test_a_resumed_run_does_not_write_again_what_it_starts_from(
    tmp_path: Path, written: list[tuple[str, int]]
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=2"))
    written.clear()
    train(tiny_config(tmp_path, "run.max_steps=3"))
    assert [step for name, step in written if name == "last.ckpt"] == [3]


def test_accumulated_batches_write_once_a_step(
    tmp_path: Path, written: list[tuple[str, int]]
) -> None:
    often = ("run.checkpoint_every_steps=1", "run.val_every_steps=9")
    train(tiny_config(tmp_path, "optim.accumulate_batches=3", *often, "run.max_steps=2"))
    assert [step for name, step in written if name == "last.ckpt"] == [1, 2]


def script(monkeypatch: pytest.MonkeyPatch, metric: str, values: list[float]) -> None:
    """Let validation after step n measure `values[n]`, whatever the model does."""
    measured = Trainer.callback_metrics.fget

    def scripted(trainer: Trainer) -> dict[str, Any]:
        return {**measured(trainer), metric: torch.tensor(values[trainer.global_step])}

    monkeypatch.setattr(Trainer, "callback_metrics", property(scripted))


def test_the_best_is_the_best_of_all_validations_over_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = "val/loss/reconstruction"
    # The first is what the run started from, and not its own.
    script(monkeypatch, metric, [0.0, 5.0, 3.0, 4.0, 2.0, 6.0, 3.5, 2.5, 1.5])
    often = ("run.val_every_steps=1", "run.checkpoint_every_steps=3")
    for steps, best, value in ((6, 4, 2.0), (7, 4, 2.0), (8, 8, 1.5)):
        train(tiny_config(tmp_path, *often, f"run.max_steps={steps}"))
        assert load(tmp_path, "best.ckpt")["global_step"] == best
        assert load(tmp_path, "last.ckpt")["callbacks"]["Checkpoints"] == {
            "best_metric": metric,
            "best_value": value,
            "best_step": best,
        }
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        validated = {int(row["step"]): float(row[metric]) for row in csv.DictReader(file)}
    assert validated[8] == 1.5, "what is logged is what chooses"


def test_any_metric_may_choose_the_best_whichever_way_it_gets_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "val/psnr", [50.0, 20.0, 30.0, 10.0, 29.0])
    often = ("run.val_every_steps=1", "run.best_metric=val/psnr")
    train(tiny_config(tmp_path, *often, "run.max_steps=3"))
    train(tiny_config(tmp_path, *often, "run.max_steps=4"))
    assert load(tmp_path, "best.ckpt")["global_step"] == 2
    assert load(tmp_path, "last.ckpt")["callbacks"]["Checkpoints"]["best_metric"] == "val/psnr"


def test_another_metric_than_before_begins_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=2"))
    train(tiny_config(tmp_path, "run.max_steps=4", "run.best_metric=val/codebook/used"))
    out = capsys.readouterr().out
    assert "was chosen by val/loss/reconstruction. From now on run.best_metric=val/codeb" in out
    assert "(step 4, by val/codebook/used)" in out
    assert load(tmp_path, "best.ckpt")["global_step"] == 4


def test_a_checkpoint_from_before_there_was_a_choice_goes_on(tmp_path: Path) -> None:
    writer = Checkpoints(
        tmp_path, 1, {}, best_metric="val/loss/reconstruction", higher_is_better=False
    )
    writer.best.parent.mkdir()
    writer.best.touch()
    writer.load_state_dict({"best_value": 0.5, "best_step": 7})
    assert (writer.best_value, writer.best_step) == (0.5, 7)


def test_a_best_that_lies_in_another_folder_is_not_the_best_of_this_one(tmp_path: Path) -> None:
    metric = {"best_metric": "val/psnr", "higher_is_better": True}
    writer = Checkpoints(tmp_path, 1, {}, **metric)  # type: ignore[arg-type]
    writer.load_state_dict({"best_metric": "val/psnr", "best_value": 30.0, "best_step": 7})
    saved: list[Path] = []
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/psnr": 20.0},
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        global_step=9,
        save_checkpoint=saved.append,
    )
    writer.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert saved == [writer.best]
    assert (writer.best_value, writer.best_step) == (20.0, 9)


@pytest.mark.parametrize("name", ["last.ckpt", pytest.param("best.ckpt", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_with_a_message_and_keeps_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=2"))
    folder = tmp_path / "run" / "checkpoints"
    before = (folder / name).read_bytes()
    save = torch.save

    def fill(checkpoint: Any, file: Any) -> None:
        if Path(file.name).name.startswith(name):
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", fill)
    monkeypatch.setattr(shutil, "copyfileobj", lambda _, file: fill(None, file))
    # Without the earlier best value, the next validation is the best.
    monkeypatch.setattr(
        "vqgan_train.training.callbacks.checkpoints.Checkpoints.load_state_dict", lambda *_: None
    )
    monkeypatch.setattr(os, "environ", os.environ.copy())
    overrides = tiny_overrides(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vqgan_train", *overrides])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert re.search(r"Stopped at step 4; .*resume from .*(last|best).ckpt \(step \d\)", out)
    assert str(folder / name) in err
    assert (folder / name).read_bytes() == before
    assert {file.name for file in folder.iterdir()} == {"last.ckpt", "best.ckpt"}


def test_what_a_checkpoint_holds_loads_without_running_anything(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1", "trainer.precision=bf16"))
    last = load(tmp_path, "last.ckpt")
    assert last["vqgan_train"]["config"]["trainer"]["precision"] == "bf16"
    assert last["callbacks"].keys() == {"Checkpoints", "SkipNonFinite", "Summary"}
    assert all(w.dtype != torch.bfloat16 for w in last["state_dict"].values())
