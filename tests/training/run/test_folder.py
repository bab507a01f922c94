"""The folder of a run: held by one run at a time, written whole, its errors named."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_only
from tiny_runs import tiny_config

from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.run import folder as lock
from vqgan_train.training.run.contents import checkpoint_times, wandb_id
from vqgan_train.training.run.folder import (
    OUTPUT_DIR_VARIABLE,
    RunFolder,
    claim_folder,
    lock_folder,
    require_named_folder,
    require_no_newer_checkpoint,
    require_space,
    write_config,
)
from vqgan_train.training.run.logs import RankLog
from vqgan_train.training.train import train

SETTINGS: dict[str, Any] = {"run": {"max_steps": 4, "seed": 0}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(OUTPUT_DIR_VARIABLE, None)


def test_a_given_folder_is_taken_and_not_made(tmp_path: Path) -> None:
    assert claim_folder("new/run") == Path("new/run")
    assert not (tmp_path / "new").exists()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    claimed: list[Path] = []
    ready = threading.Barrier(8)

    def start() -> None:
        ready.wait()
        claimed.append(claim_folder(None))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(set(claimed)) == 8
    assert sorted(tmp_path.joinpath(path) for path in claimed) == sorted(tmp_path.glob("runs/*"))


def test_other_ranks_make_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    claim_folder(None)
    write_config(tmp_path / "new", SETTINGS)
    wandb_id(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_processes_that_the_first_rank_launches_know_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = claim_folder(None)
    write_config(folder, SETTINGS)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert claim_folder(None) == folder


def test_config_yaml_is_whole_or_not_there(tmp_path: Path) -> None:
    write_config(tmp_path / "run", SETTINGS)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == SETTINGS
    with pytest.raises(yaml.YAMLError):
        write_config(tmp_path / "run", {"x": object()})
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == SETTINGS


def test_the_wandb_id_is_drawn_once(tmp_path: Path) -> None:
    first = wandb_id(tmp_path / "run")
    assert len(first) == 8
    assert wandb_id(tmp_path / "run") == first
    assert wandb_id(tmp_path / "other") != first


def test_two_runs_cannot_be_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.1)
    hold = (
        "import time; from filelock import FileLock\n"
        f"with FileLock({str(tmp_path / lock.LOCK_FILE)!r}):\n"
        "    print('held', flush=True); time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match="is in use by another run"),
            lock_folder(tmp_path),
        ):
            pass
    finally:
        other.kill()  # as nobody can prepare for
        other.communicate()
    with lock_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_without_locks_is_said_and_never_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / lock.LOCK_FILE).touch()  # of a job that was killed on another node
    with lock_folder(tmp_path):
        pass
    assert "has no file locks (flock)" in caplog.text


def test_a_disk_that_is_too_small_is_said_first(tmp_path: Path) -> None:
    require_space(tmp_path, num_weights=1000)
    with pytest.raises(
        RunFolderError, match=r"take 3600000.0 GB more, but the disk of run.output_dir="
    ):
        require_space(tmp_path, num_weights=10**14)


def test_checkpoints_that_are_there_need_no_second_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, size in (("last.ckpt", 12_000), ("best.ckpt", 11_000)):
        (tmp_path / "checkpoints" / name).write_bytes(bytes(size))
    # A new run of 1000 weights needs 36,000 bytes.
    free = 36_000 - 23_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    require_space(tmp_path, num_weights=1000)
    free -= 1
    with pytest.raises(RunFolderError, match="Make room"):
        require_space(tmp_path, num_weights=1000)


def test_what_a_kill_left_behind_is_cleared(tmp_path: Path) -> None:
    left = [tmp_path / "config.yaml.1f.partial", tmp_path / "checkpoints" / "last.ckpt.partial"]
    left[1].parent.mkdir()
    for file in left:
        file.touch()
    write_config(tmp_path, SETTINGS)
    assert not any(file.exists() for file in left)


def test_a_second_run_touches_nothing_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1"))
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.1)
    writing = tmp_path / "run" / "checkpoints" / "last.ckpt.partial"
    writing.touch()
    config = (tmp_path / "run" / "config.yaml").read_bytes()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(RunFolderError, match="is in use by another run"),
    ):
        train(tiny_config(tmp_path, "run.max_steps=2"))
    assert writing.exists()
    assert (tmp_path / "run" / "config.yaml").read_bytes() == config


def test_a_run_that_was_overtaken_while_it_waited_does_not_start(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(b"1")
    saved = checkpoint_times(tmp_path)
    require_no_newer_checkpoint(tmp_path, saved)
    os.utime(last, ns=(0, 0))
    with pytest.raises(RunFolderError, match="Another run has changed the checkpoints"):
        require_no_newer_checkpoint(tmp_path, saved)
    assert checkpoint_times(tmp_path / "none") == []


def test_a_job_that_slurm_starts_again_has_to_know_its_folder() -> None:
    require_named_folder({}, None)
    require_named_folder({"SLURM_RESTART_COUNT": "0"}, None)
    require_named_folder({"SLURM_RESTART_COUNT": "2"}, "runs/7")
    with pytest.raises(RunFolderError, match=r"again \(restarts: 2\).*runs/\$SLURM_JOB_ID"):
        require_named_folder({"SLURM_RESTART_COUNT": "2"}, None)


@pytest.fixture
def rank_log() -> Iterator[RankLog]:
    log = RankLog()
    yield log
    log.close()


def run_in(output_dir: str | None) -> RunFolder:
    return RunFolder(output_dir, resume="auto", parent=None, settings=SETTINGS)


@pytest.mark.parametrize("output_dir", [None, "runs/new"])
def test_a_run_looks_first_and_then_holds_its_folder(
    tmp_path: Path, rank_log: RankLog, output_dir: str | None
) -> None:
    run = run_in(output_dir)
    assert not list(tmp_path.iterdir())
    with run.opened(rank_log, num_weights=1):
        (folder,) = tmp_path.glob("runs/*")
        assert run.path.absolute() == folder
        stored = yaml.safe_load((folder / "config.yaml").read_text())
        assert stored == {"run": {**SETTINGS["run"], "output_dir": str(run.path)}}
        names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert names == {"config.yaml", ".lock", "logs/rank_0.log"}
    assert not (folder / ".lock").exists()
    assert run.settings == SETTINGS


def test_a_run_does_not_touch_a_folder_in_which_another_has_saved_since(
    tmp_path: Path, rank_log: RankLog
) -> None:
    run = run_in("run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"1")
    with (
        pytest.raises(RunFolderError, match="Another run has changed the checkpoints"),
        run.opened(rank_log, num_weights=1),
    ):
        pass
    assert [file for file in (tmp_path / "run").rglob("*") if file.is_file()] == [last]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"=run cannot be written \(No space left",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "run/images/x"), "run/images/x"),
    ],
)
def test_an_error_of_writing_into_the_folder_names_it(
    rank_log: RankLog, error: OSError, message: str
) -> None:
    with (
        pytest.raises(RunFolderError, match=message),
        run_in("run").opened(rank_log, num_weights=1),
    ):
        raise error


def test_an_error_about_another_file_stays_what_it_is(rank_log: RankLog) -> None:
    with (
        pytest.raises(FileNotFoundError),
        run_in("run").opened(rank_log, num_weights=1),
    ):
        Path("/nowhere/of/ours").read_text()
