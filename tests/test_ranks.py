"""Two ranks on a CPU: bit-equal to each other, and to one rank that accumulates their batches."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from recorded_ranks import be_rank, free_port
from tiny_runs import TIMED, compose_config, tiny_config, tiny_overrides

from vqgan_train.training.callbacks.rank_consistency import BatchNormAverage
from vqgan_train.training.train import train


def run_rank(rank: int, folder: Path, overrides: list[str], port: int) -> None:
    """Train as rank `rank` of 2 and save the state that this rank ends with.

    The BatchNorm statistics of its last batch before their average over ranks are saved, too.
    """
    be_rank(rank, port)
    average, own = BatchNormAverage.on_train_batch_end, {}

    def remember_and_average(
        callback: BatchNormAverage, trainer: Any, module: Any, *rest: Any
    ) -> None:
        own.update({name: b.clone() for name, b in module.discriminator.named_buffers()})
        average(callback, trainer, module, *rest)

    BatchNormAverage.on_train_batch_end = remember_and_average  # type: ignore[method-assign]
    trainer = train(compose_config(*overrides, "trainer.devices=2"))
    assert trainer is not None
    torch.save(trainer.lightning_module.state_dict(), folder / f"rank{rank}.pt")
    torch.save(own, folder / f"statistics{rank}.pt")


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


def test_ranks_end_bit_equal_statistics_of_batch_norm_included(two_ranks: Path) -> None:
    first, second = states(two_ranks)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_ranks_keep_the_mean_of_their_statistics_of_batch_norm(two_ranks: Path) -> None:
    (end, _), statistics = states(two_ranks), []
    for rank in range(2):
        statistics.append(torch.load(two_ranks / f"statistics{rank}.pt", weights_only=True))
    averaged = [name for name in statistics[0] if "running" in name]
    assert averaged
    for name in averaged:
        one, other = (own[name] for own in statistics)
        assert not torch.equal(one, other)
        torch.testing.assert_close(end[f"discriminator.{name}"], (one + other) / 2, msg=name)


def test_two_ranks_train_like_one_that_accumulates(two_ranks: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "optim.accumulate_batches=2"))
    for together, alone in zip(metrics(two_ranks / "run"), metrics(tmp_path / "run"), strict=True):
        for name in (n for n in alone if n.startswith("train/loss/") and alone[n]):
            assert float(together[name]) == pytest.approx(float(alone[name]), rel=1e-3), name


def test_validation_over_two_ranks_equals_one(two_ranks: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1"))
    together, alone = metrics(two_ranks / "run")[0], metrics(tmp_path / "run")[0]
    for name, value in alone.items():
        if name.startswith("val/") and name not in TIMED:
            assert float(together[name]) == pytest.approx(float(value), rel=1e-5), name


def test_pictures_are_those_of_one_rank(two_ranks: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run.max_steps=1"))
    name = Path("run", "images", "step_000000.png")
    assert (two_ranks / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_the_command_launches_two_ranks_by_itself(tmp_path: Path) -> None:
    overrides: list[Any] = tiny_overrides(tmp_path, "trainer.devices=2")
    command = [sys.executable, "-m", "vqgan_train", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
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
