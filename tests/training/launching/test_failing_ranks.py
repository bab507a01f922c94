"""A failing rank: all ranks exit within a minute, and its own error is printed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from recorded_ranks import free_port
from tiny_runs import rows, wait_until

from vqgan_train.system.exit_codes import LOST_RANK

from .conftest import PATIENCE_SECONDS, TRAIN, Variables, changed

pytestmark = pytest.mark.slow
SECONDS_TO_END = 60
LONG = ("run.max_steps=100000", "run.val_every_steps=100000", "run.output_dir=run")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m")

RAISING = """\
from vqgan_train.training.callbacks.progress import Progress

def fail(self, trainer, *rest):
    if trainer.global_step == 2:
        raise KeyError("this rank is broken")

Progress.on_train_batch_end = fail
"""
SHORT_OF_DATA = """\
from itertools import islice
from vqgan_train.training.data import pipeline

whole = pipeline.PlannedBatches.__iter__
pipeline.PlannedBatches.__iter__ = lambda self: islice(whole(self), 2)
"""
ONLY_RANK_1 = """\
import os, sys
from vqgan_train.system.launch import rank_of

if rank_of(os.environ) == 1 and "vqgan_train" in " ".join(sys.orig_argv):
    import broken_rank
"""


@pytest.fixture
def broken(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Folder for PYTHONPATH with a sitecustomize that breaks rank 1, however it is started."""
    (tmp_path / "broken_rank.py").write_text(request.param)
    (tmp_path / "sitecustomize.py").write_text(ONLY_RANK_1)
    return str(tmp_path)


def test_ranks_that_are_given_other_settings_do_not_begin(
    tmp_path: Path, shards: list[str], plain_environment: Variables
) -> None:
    meeting = ("--nnodes=2", "--nproc-per-node=1", f"--master-port={free_port()}")
    own = (["run.output_dir=run"], ["run.output_dir=other", "data.batch_size=1", "run.seed=3"])
    machines = [
        subprocess.Popen(
            [*TORCHRUN[:3], *meeting, f"--node-rank={node}", "-m", "vqgan_train", *settings],
            env=dict(plain_environment),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node, settings in enumerate(changed(shards, *words) for words in own)
    ]
    try:
        said = [machine.communicate(timeout=PATIENCE_SECONDS)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert all(machine.returncode != 0 for machine in machines)
    assert "Rank 1 has other settings than the first rank" in said[1]
    assert "data.batch_size: 2 on the first rank, 1 here" in said[1]
    assert "run.output_dir: run on the first rank, other here" in said[1]
    assert not (tmp_path / "other").exists()


@pytest.fixture(params=["ours", "torchrun", "srun"])
def launched(
    request: pytest.FixtureRequest, shards: list[str], plain_environment: Variables
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a long run of two ranks."""
    words = changed(shards, *LONG)
    if request.param == "ours":
        return [*TRAIN, *words, "trainer.devices=2"], dict(plain_environment)
    if request.param == "torchrun":
        return [*TORCHRUN, "vqgan_train", *words], dict(plain_environment)
    slurm = request.getfixturevalue("slurm")
    return ["srun", "-N2", "-n2", "--kill-on-bad-exit=1", *TRAIN, *words], dict(slurm)


Launched = tuple[list[str], dict[str, str]]


@contextmanager
def running(
    command: list[str], environment: Variables, folder: Path
) -> Iterator["subprocess.Popen[str]"]:
    """Start a process whose output goes to the file `said`; kill it at the end."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdout=said, stderr=said, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def log_of(rank: int, folder: Path) -> str:
    return (folder / "run" / "logs" / f"rank_{rank}.log").read_text()


def number_of(rank: int, folder: Path) -> int:
    return int(log_of(rank, folder).split("process ")[1].split()[0])


def has_steps(folder: Path) -> bool:
    return (folder / "run" / "metrics.csv").exists() and len(rows(folder / "run")) > 3


def assert_gone(*processes: int) -> None:
    """Wait until none of the processes is alive, zombies aside."""

    def alive(number: int) -> bool:
        status = Path(f"/proc/{number}/status")
        return status.exists() and "State:\tZ" not in status.read_text()

    wait_until(lambda: not any(map(alive, processes)), SECONDS_TO_END)


@pytest.mark.parametrize("broken", [RAISING], indirect=True, ids=[""])
def test_an_exception(tmp_path: Path, launched: Launched, broken: str) -> None:
    command, environment = launched
    environment["PYTHONPATH"] += f":{broken}"
    with running(command, environment, tmp_path) as process:
        process.wait(PATIENCE_SECONDS)
    said = (tmp_path / "said").read_text()
    assert process.returncode != 0
    assert "KeyError: 'this rank is broken'" in said
    assert "KeyError: 'this rank is broken'" in log_of(1, tmp_path)
    if "\nError: " in said:  # rank 0 was not ended by the launcher before
        assert "Another rank of the run has exited" in said
    assert "Connection closed" not in said, "what the other rank noticed hides what happened"
    assert_gone(*(number_of(rank, tmp_path) for rank in (0, 1)))


@pytest.mark.parametrize(
    ("launched", "rank"),
    [("ours", 0), ("ours", 1), ("torchrun", 1), ("srun", 1)],  # rank 0 starts the others
    indirect=["launched"],
)
def test_a_kill(tmp_path: Path, launched: Launched, rank: int) -> None:
    command, environment = launched
    with running(command, environment, tmp_path) as process:
        wait_until(lambda: process.poll() is not None or has_steps(tmp_path), PATIENCE_SECONDS)
        ranks = [number_of(number, tmp_path) for number in (0, 1)]
        killed_at = time.monotonic()
        os.kill(ranks[rank], signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
        assert_gone(*ranks)
    assert time.monotonic() - killed_at < SECONDS_TO_END
    said = (tmp_path / "said").read_text()
    assert process.returncode != 0
    assert "Connection closed" not in said
    if command[0] == "srun":
        assert "task 1: Killed" in said
    elif "torch.distributed.run" not in command and rank == 1:
        assert process.returncode == LOST_RANK, said
        assert "Rank 1 has ended with SIGKILL." in said


@pytest.mark.parametrize("broken", [SHORT_OF_DATA], indirect=True, ids=[""])
def test_data_that_end_early(
    tmp_path: Path, shards: list[str], plain_environment: Variables, broken: str
) -> None:
    environment = {**plain_environment, "PYTHONPATH": f"{plain_environment['PYTHONPATH']}:{broken}"}
    command = [*TRAIN, *changed(shards, *LONG), "trainer.devices=2"]
    with running(command, environment, tmp_path) as process:
        process.wait(PATIENCE_SECONDS)
    said = (tmp_path / "said").read_text()
    assert process.returncode == LOST_RANK
    assert "Error of rank 1: The training data of rank 1 ended at step 2 of 100000." in said
    assert "Rank 1 has ended with exit code 2." in said
