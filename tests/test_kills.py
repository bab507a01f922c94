"""Runs that are killed, disks that are full or read-only: nothing is lost, and it is said."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import load, rows, tiny_config

from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.train import train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def test_killed_runs_end_as_if_nobody_had_disturbed_them(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "kill_runs.py"), "--kills", "8"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    cases = json.loads(finished.stdout)["cases"]
    assert {name: case["lost"] for name, case in cases.items()} == {key: [] for key in cases}
    assert sum(case["kills"] for case in cases.values()) == 8


def test_the_committed_kills_lost_nothing() -> None:
    cases = json.loads((ROOT / "docs" / "benchmarks" / "kills.json").read_text())["cases"]
    assert sum(case["kills"] for case in cases.values()) >= 200
    assert sum(case["half_written"] for case in cases.values()) > 10, "no write was ever hit"
    assert not any(case["lost"] for case in cases.values())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB, which holds a few checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(disk)])
    if made.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Write a file that leaves so many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "photos.tar").write_bytes(bytes(free - leave))


def test_a_disk_that_is_full_is_said_before_the_run_and_in_it(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config(small_disk, "run.max_steps=2"))
    last = small_disk / "run" / "checkpoints" / "last.ckpt"
    before, steps = load(last), rows(small_disk / "run")
    fill(small_disk, leave=last.stat().st_size // 2)
    with pytest.raises(
        RunFolderError, match=r"checkpoints of this run take .* GB more, .* GB left"
    ):
        train(tiny_config(small_disk))

    monkeypatch.setattr("vqgan_train.training.run.folder.require_space", lambda *_, **__: None)
    with pytest.raises(RunFolderError, match=r"No space left on device: .*\.ckpt"):
        train(tiny_config(small_disk))
    assert load(last)["global_step"] == 2
    assert torch.equal(
        load(last)["state_dict"]["decoder.conv_out.weight"],
        before["state_dict"]["decoder.conv_out.weight"],
    )
    assert {file.name for file in last.parent.iterdir()} == {"last.ckpt", "best.ckpt"}

    (small_disk / "photos.tar").unlink()
    train(tiny_config(small_disk))
    assert rows(small_disk / "run")[: len(steps)] == steps
    assert load(last)["global_step"] == 4


def test_a_read_only_disk_is_said(small_disk: Path) -> None:
    train(tiny_config(small_disk, "run.max_steps=2"))
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    with pytest.raises(
        RunFolderError, match=r"cannot be written \(Read-only file system: .*\.lock\)"
    ):
        train(tiny_config(small_disk))
    last = small_disk / "run" / "checkpoints" / "last.ckpt"
    assert load(last)["global_step"] == 2
