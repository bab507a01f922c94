"""Where a run starts: from its own checkpoint, a configured one, or its parent's."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.checkpoint.writing import save_atomically
from vqgan_train.system.errors import CheckpointError, RunFolderError
from vqgan_train.training.run.folder import OUTPUT_DIR_VARIABLE, write_config
from vqgan_train.training.run.start import ANEW, RunStart, find_start

SETTINGS: dict[str, Any] = {
    "run": {"max_steps": 4, "seed": 0, "parent": None},
    "data": {"train_shards": ["a.tar"], "num_workers": 0, "batch_size": 2},
    "model": {
        "init_from": None,
        "architecture": {"channels": 32},
        "discriminator": {"channels": 8},
    },
    "optim": {"betas": [0.5, 0.9], "learning_rate": 4.5e-6, "clip_norm": None},
    "trainer": {"devices": "auto"},
    "logger": {"wandb": None},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(OUTPUT_DIR_VARIABLE, None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has written a checkpoint at step 2."""
    folder = tmp_path / "run"
    write_config(folder, SETTINGS)
    write_checkpoint(folder / "checkpoints" / "last.ckpt", 2)
    return folder


def write_checkpoint(path: Path, step: int, parent: dict[str, Any] | None = None) -> Path:
    content = {
        "state_dict": {"x": torch.zeros(1)},
        "global_step": step,
        "optimizer_states": [{"state": {}}],
        "warm_step": 0,
        "ShardDataModule": data_state(step),
        "vqgan_train": {"config": SETTINGS, "parent": parent},
    }
    save_atomically(content, path)
    return path


def data_state(step: int) -> dict[str, Any]:
    return {"position": 10 * step, "step": step, "train_fingerprint": "f", "val_fingerprint": "v"}


def start_of(path: Path, step: int, parent: dict[str, Any] | None = None) -> RunStart:
    """What a run has that goes on from a checkpoint."""
    return RunStart(False, path, step, data_state(step), parent)


def changed(group: str, **values: Any) -> dict[str, Any]:
    return {**SETTINGS, group: {**SETTINGS[group], **values}}


def found(
    output_dir: str | Path | None,
    resume: str | Path = "auto",
    parent: str | Path | None = None,
    settings: dict[str, Any] = SETTINGS,
) -> RunStart:
    texts = [None if given is None else str(given) for given in (output_dir, parent)]
    return find_start(texts[0], str(resume), texts[1], settings)


def test_a_new_folder_is_not_made(tmp_path: Path) -> None:
    assert found(tmp_path / "new" / "run") == ANEW
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert found("run", "never") == ANEW


def test_a_run_goes_on_from_its_last_checkpoint(run: Path) -> None:
    assert found(run) == start_of(run / "checkpoints" / "last.ckpt", 2)


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    assert found(run) == ANEW


@pytest.mark.parametrize(("last", "best"), [(2, 1), (2, 3), (None, 1)])
def test_the_newest_state_is_gone_on_from(run: Path, last: int | None, best: int) -> None:
    steps = {"last.ckpt": last, "best.ckpt": best}
    (run / "checkpoints" / "last.ckpt").unlink()
    for name, step in steps.items():
        if step is not None:
            write_checkpoint(run / "checkpoints" / name, step)
    name = max(steps, key=lambda name: steps[name] or 0)
    assert found(run) == start_of(run / "checkpoints" / name, steps[name] or 0)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "a web page", "half a state"])
def test_a_damaged_state_is_passed_over_by_name(
    run: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vqgan_train"), "propagate", True)
    last, best = (run / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    write_checkpoint(best, 1)
    whole = last.read_bytes()
    if damage == "half a state":
        save_atomically({**torch.load(last), "optimizer_states": []}, last)
    else:
        last.write_bytes(
            {"cut": whole[: len(whole) // 2], "garbage": b"\1" * 999, "empty": b""}.get(
                damage, b"<html>"
            )
        )
    assert found(run) == start_of(best, 1)
    assert f"skipped the unreadable checkpoint {last}" in caplog.text
    best.unlink()
    with pytest.raises(RunFolderError, match=r"last.ckpt cannot be read.*begin the run anew"):
        found(run)


def test_never_refuses_to_go_on(run: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds a run already, and run.resume=never"):
        found(run, "never")


@pytest.mark.parametrize(
    "settings",
    [
        changed("run", max_steps=9),
        changed("data", num_workers=8),
        changed("data", train_shards=["/elsewhere/a.tar"]),
        changed("trainer", devices=4),
        changed("logger", wandb={"project": "x"}),
        changed("data", exif_rotate=False),  # what runs without this setting did
    ],
)
def test_how_long_and_where_may_change(run: Path, settings: dict[str, Any]) -> None:
    assert found(run, settings=settings).step == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed("data", batch_size=3), "data.batch_size: 2 there, 3 now"),
        (changed("optim", clip_norm=1.0), "optim.clip_norm: null there, 1.0 now"),
        (changed("optim", learning_rate=1e-6), "optim.learning_rate: 4.5e-06 there, 1e-06 now"),
        # It orders the data.
        (changed("run", seed=1), "run.seed: 0 there, 1 now"),
        (changed("run", parent="x.ckpt"), "run.parent: null there, x.ckpt now"),
        (changed("data", exif_rotate=True), "data.exif_rotate: false there, true now"),
        (changed("data", crop=True), "data.crop: absent there, true now"),
        ({**SETTINGS, "data": {}}, "data.batch_size: 2 there, absent now"),
        (changed("model", trained="decoder"), "model.trained: all there, decoder now"),
    ],
)
@pytest.mark.parametrize("resume", ["auto", "path"])
def test_what_is_trained_on_what_may_not(
    run: Path, resume: str, settings: dict[str, Any], message: str
) -> None:
    resume = resume if resume == "auto" else str(run / "checkpoints" / "last.ckpt")
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(RunFolderError, match=message):
        found(run, resume, settings=settings)
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("resume", ["auto", "path"])
def test_a_run_of_before_a_setting_resumes_with_what_it_did(run: Path, resume: str) -> None:
    resume = resume if resume == "auto" else str(run / "checkpoints" / "last.ckpt")
    assert found(run, resume, settings=changed("model", trained="all")).step == 2


def test_only_some_of_many_differences_are_listed(run: Path) -> None:
    other = {**SETTINGS, "data": {f"x{n}": n for n in range(20)}}
    with pytest.raises(RunFolderError, match="and 13 more") as raised:
        found(run, settings=other)
    assert len(str(raised.value).splitlines()) < 15


@pytest.mark.parametrize("resume", ["auto", "never", "path"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, run: Path, resume: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    resume = resume if resume != "path" else str(run / "checkpoints" / "last.ckpt")
    with pytest.raises(RunFolderError, match=r"but other files, such as thesis.tex"):
        found("other", resume)


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b\n", ""])
def test_a_config_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(content)
    with pytest.raises(RunFolderError, match=r"config.yaml holds no settings of a run"):
        found("other")


def test_a_given_checkpoint_of_this_run_is_gone_on_from(run: Path) -> None:
    best = write_checkpoint(run / "checkpoints" / "best.ckpt", 1)
    assert found(run, best) == start_of(best, 1)


def test_a_given_checkpoint_goes_on_in_a_new_folder(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert found("new", last) == start_of(last, 2)
    assert not (tmp_path / "new").exists()


def test_a_given_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt", 1)
    with pytest.raises(RunFolderError, match=r"holds a run, but run.resume="):
        found(run, other)


def test_a_given_checkpoint_must_exist_and_be_ours(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="neither auto nor never, and no such file exists"):
        found(None, "Auto")
    theirs = {"state_dict": {"quantize.embedding.weight": torch.zeros(1)}, "global_step": 7}
    save_atomically(theirs, tmp_path / "taming.ckpt")
    with pytest.raises(
        RunFolderError, match=r"taming.ckpt \(run.resume\) .* model.init_from=taming"
    ):
        found(None, "taming.ckpt")
    with pytest.raises(
        RunFolderError, match=r"taming.ckpt \(run.parent\) .* model.init_from=taming"
    ):
        found("new", parent="taming.ckpt")


def test_a_parent_is_continued_and_named(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    settings = {**changed("model", trained="all"), "optim": {"learning_rate": 1e-6}}
    start = found("new", parent=last, settings=settings)
    provenance = {"config": SETTINGS, "parent": None}
    parent = {"source": str(last), "step": 2, "images": 20, "provenance": provenance}
    assert start == start_of(last, 2, parent)._replace(is_new=True)


def test_a_checkpoint_of_its_own_comes_before_the_parent(run: Path, tmp_path: Path) -> None:
    settings = changed("run", parent="gone.ckpt")
    write_config(tmp_path / "child", settings)
    parent = {"source": "gone.ckpt", "step": 2, "images": 20, "provenance": {}}
    own = write_checkpoint(Path("child", "checkpoints", "last.ckpt"), 3, parent)
    assert found("child", parent="gone.ckpt", settings=settings) == start_of(own, 3, parent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed("run", seed=1), "run.seed: 0 there, 1 now"),
        (changed("model", architecture={"channels": 64}), "channels: 32 there, 64 now"),
        (changed("model", discriminator={"channels": 4}), "discriminator.channels: 8 there, 4"),
        (changed("model", trained="decoder"), "model.trained: all there, decoder now"),
    ],
)
def test_a_parent_of_another_kind_is_refused(
    run: Path, settings: dict[str, Any], message: str
) -> None:
    last = run / "checkpoints" / "last.ckpt"
    with pytest.raises(RunFolderError, match=rf"(?s)trained with other settings.*{message}"):
        found("new", parent=last, settings=settings)


def test_a_folder_as_parent_is_answered_with_the_checkpoint_in_it(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a run's folder. .*run/checkpoints/last.ckpt"):
        found("new", parent=run)


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run.parent=.*part1/last.ckpt does not exist"):
        found("new", parent=tmp_path / "part1" / "last.ckpt")


def test_other_ranks_start_where_the_first_does_and_make_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    last = run / "checkpoints" / "last.ckpt"
    best = write_checkpoint(run / "checkpoints" / "best.ckpt", 1)
    assert found(run) == start_of(last, 2)
    assert found(run, best) == start_of(best, 1)
    assert found("new", parent=last).checkpoint == last
    assert found("new", "never") == found(None) == ANEW
    assert not (tmp_path / "new").exists()
