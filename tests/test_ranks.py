"""Launching, continuing and resuming two ranks on a CPU; test_rank_equality has their results."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from recorded_ranks import be_rank, free_port
from tiny_runs import compose_config, tiny_config, tiny_overrides

from vqgan_train.training.train import train


def run_rank(rank: int, folder: Path, overrides: list[str], port: int) -> None:
    """Train as rank `rank` of 2 and save the state that this rank ends with."""
    be_rank(rank, port)
    trainer = train(compose_config(*overrides, "trainer.devices=2"))
    assert trainer is not None
    torch.save(trainer.lightning_module.state_dict(), folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    overrides = tiny_overrides(folder)
    torch.multiprocessing.spawn(run_rank, (folder, overrides, free_port()), nprocs=2)
    return folder


def states(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_launches_two_ranks_by_itself(tmp_path: Path) -> None:
    overrides: list[Any] = tiny_overrides(tmp_path, "trainer.devices=2")
    command = [sys.executable, "-m", "vqgan_train", *overrides]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("To train longer:") == 1
    assert [row["step"] for row in metrics(tmp_path / "run")] == ["0", "1", "2", "3", "4"]


@pytest.mark.slow
def test_two_ranks_continue_a_parent_of_one(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, f"run.output_dir={tmp_path / 'part1'}", "run.max_steps=2"))
    parent = tmp_path / "part1" / "checkpoints" / "last.ckpt"
    overrides = tiny_overrides(tmp_path, f"run.parent={parent}", "run.max_steps=4")
    torch.multiprocessing.spawn(run_rank, (tmp_path, overrides, free_port()), nprocs=2)
    first, second = states(tmp_path)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert [row["step"] for row in metrics(tmp_path / "run")] == ["3", "4"]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["ShardDataModule"]["position"] == 2 * 2 + 2 * 2 * 2


@pytest.mark.slow
def test_two_ranks_resume_as_if_they_had_not_stopped(two_ranks: Path, tmp_path: Path) -> None:
    for steps in (2, 4):
        port = free_port()
        overrides = tiny_overrides(tmp_path, f"run.max_steps={steps}")
        torch.multiprocessing.spawn(run_rank, (tmp_path, overrides, port), nprocs=2)
    for whole, halves in zip(states(two_ranks), states(tmp_path), strict=True):
        for name in whole:
            assert torch.equal(whole[name], halves[name]), name
