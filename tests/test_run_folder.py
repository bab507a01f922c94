"""Whose folder it is, and where in the run to go on."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only

from vqgan_train.checkpoint import write_atomically
from vqgan_train.run_folder import (
    OUTPUT_DIR_VARIABLE,
    RunFolder,
    RunFolderError,
    open_run,
    start_folder,
    wandb_id,
)

SETTINGS: dict[str, Any] = {
    "run": {"max_steps": 4, "seed": 0},
    "data": {"train_shards": ["a.tar"], "num_workers": 0, "batch_size": 2},
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
    start_folder(RunFolder(folder, None, 0), SETTINGS)
    write_checkpoint(folder / "checkpoints" / "last.ckpt", 2)
    return folder


def write_checkpoint(path: Path, step: int, settings: dict[str, Any] = SETTINGS) -> Path:
    content = {"state_dict": {"x": torch.zeros(1)}, "global_step": step}
    write_atomically({**content, "vqgan_train": {"config": settings}}, path)
    return path


def changed(group: str, **values: Any) -> dict[str, Any]:
    return {**SETTINGS, group: {**SETTINGS[group], **values}}


def test_a_new_folder_is_not_made_before_the_run_starts(tmp_path: Path) -> None:
    folder = open_run(str(tmp_path / "new" / "run"), "auto", SETTINGS)
    assert folder == RunFolder(tmp_path / "new" / "run", None, 0)
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert open_run("run", "never", SETTINGS).step == 0


def test_a_run_goes_on_from_its_last_checkpoint(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert open_run(str(run), "auto", SETTINGS) == RunFolder(run, last, 2)


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "metrics.csv").write_text("step\r\n0\r\n")
    folder = open_run(str(run), "auto", SETTINGS)
    assert folder == RunFolder(run, None, 0)
    start_folder(folder, SETTINGS)
    assert not (run / "metrics.csv").exists()


def test_never_refuses_a_folder_with_a_run(run: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds a run already, and run.resume=never"):
        open_run(str(run), "never", SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        changed("run", max_steps=9),
        changed("data", num_workers=8),
        changed("trainer", devices=4),
        changed("logger", wandb={"project": "x"}),
    ],
)
def test_how_long_and_where_may_change(run: Path, settings: dict[str, Any]) -> None:
    assert open_run(str(run), "auto", settings).step == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed("data", train_shards=["b.tar"]), r"train_shards: \['a.tar'\] there, \['b.tar'\]"),
        (changed("data", batch_size=3), "data.batch_size: 2 there, 3 now"),
        (changed("optim", clip_norm=1.0), "optim.clip_norm: None there, 1.0 now"),
        (changed("optim", learning_rate=1e-6), "optim.learning_rate: 4.5e-06 there, 1e-06 now"),
        # It orders the data.
        (changed("run", seed=1), "run.seed: 0 there, 1 now"),
        (changed("data", crop=True), "data.crop: absent there, True now"),
        ({**SETTINGS, "data": {}}, "data.batch_size: 2 there, absent now"),
    ],
)
@pytest.mark.parametrize("resume", ["auto", "path"])
def test_what_is_trained_on_what_may_not(
    run: Path, resume: str, settings: dict[str, Any], message: str
) -> None:
    resume = resume if resume == "auto" else str(run / "checkpoints" / "last.ckpt")
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(RunFolderError, match=message):
        open_run(str(run), resume, settings)
    assert (run / "config.yaml").read_bytes() == before


def test_only_some_of_many_differences_are_listed(run: Path) -> None:
    other = {**SETTINGS, "data": {f"x{n}": n for n in range(20)}}
    with pytest.raises(RunFolderError, match="and 14 more") as raised:
        open_run(str(run), "auto", other)
    assert len(str(raised.value).splitlines()) < 15


@pytest.mark.parametrize("resume", ["auto", "never", "path"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, run: Path, resume: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    resume = resume if resume != "path" else str(run / "checkpoints" / "last.ckpt")
    with pytest.raises(RunFolderError, match=r"holds no run of vqgan_train, but thesis.tex"):
        open_run("other", resume, SETTINGS)


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b\n", ""])
def test_a_config_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(content)
    with pytest.raises(RunFolderError, match=r"config.yaml holds no settings of a run"):
        open_run("other", "auto", SETTINGS)


def test_a_given_checkpoint_of_this_run_is_gone_on_from(run: Path) -> None:
    best = write_checkpoint(run / "checkpoints" / "best.ckpt", 1)
    assert open_run(str(run), str(best), SETTINGS) == RunFolder(run, best, 1)


def test_a_given_checkpoint_goes_on_in_a_new_folder(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert open_run("new", str(last), SETTINGS) == RunFolder(Path("new"), last, 2)
    assert not (tmp_path / "new").exists()


def test_a_given_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt", 1)
    with pytest.raises(RunFolderError, match=r"holds another run than the one of run.resume="):
        open_run(str(run), str(other), SETTINGS)


def test_a_given_checkpoint_must_exist_and_be_ours(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="neither auto, never, nor a checkpoint that exists"):
        open_run(None, "Auto", SETTINGS)
    theirs = {"state_dict": {"quantize.embedding.weight": torch.zeros(1)}, "global_step": 7}
    write_atomically(theirs, tmp_path / "taming.ckpt")
    with pytest.raises(RunFolderError, match=r"set model.init_from=taming.ckpt"):
        open_run(None, "taming.ckpt", SETTINGS)
    assert not (tmp_path / "runs").exists()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    opened: list[Path] = []
    ready = threading.Barrier(8)

    def start() -> None:
        ready.wait()
        opened.append(open_run(None, "auto", SETTINGS).path)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(set(opened)) == 8
    assert sorted(tmp_path.joinpath(path) for path in opened) == sorted(tmp_path.glob("runs/*"))


@pytest.fixture
def second_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)


@pytest.mark.usefixtures("second_rank")
def test_other_ranks_start_where_the_first_does_and_make_nothing(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    best = write_checkpoint(run / "checkpoints" / "best.ckpt", 1)
    assert open_run(str(run), "auto", SETTINGS).checkpoint == last
    assert open_run(str(run), str(best), SETTINGS) == RunFolder(run, best, 1)
    assert open_run("new", "never", SETTINGS).checkpoint is None
    assert open_run(None, "auto", SETTINGS).checkpoint is None
    wandb_id(tmp_path / "new")
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "new").exists()


def test_processes_that_the_first_rank_launches_know_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = open_run(None, "auto", SETTINGS)
    start_folder(folder, SETTINGS)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert open_run(None, "auto", SETTINGS).path == folder.path


def test_config_yaml_is_whole_or_not_there(tmp_path: Path, run: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text()) == SETTINGS
    with pytest.raises(yaml.YAMLError):
        start_folder(RunFolder(run, None, 0), {"x": object()})
    assert yaml.safe_load((run / "config.yaml").read_text()) == SETTINGS


def test_the_wandb_id_is_drawn_once(tmp_path: Path) -> None:
    first = wandb_id(tmp_path / "run")
    assert len(first) == 8
    assert wandb_id(tmp_path / "run") == first
    assert wandb_id(tmp_path / "other") != first
