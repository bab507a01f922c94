"""Ranks that the first rank starts: command, threads, environment, and failures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

from vqgan_train.system.exit_codes import LOST_RANK, TIME_IS_UP, describe_exit_code
from vqgan_train.training.lightning import launcher
from vqgan_train.training.lightning.launcher import (
    THREADS_VARIABLE,
    restore_process_state,
    share_cores,
    watch_ranks,
)
from vqgan_train.training.setup.trainer import rank_command


def ended_with(code: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", f"import os; os._exit({code})"])
    process.wait()
    return process


class LeftError(Exception):
    """Raised instead of ending the process."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise LeftError(code)

    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.usefixtures("left")
def test_the_first_rank_does_not_outlive_the_failure_of_another() -> None:
    with pytest.raises(LeftError, match=str(LOST_RANK)):
        watch_ranks([ended_with(0), ended_with(1)])


@pytest.mark.usefixtures("left")
def test_ranks_that_are_done_or_were_told_to_stop_have_not_failed() -> None:
    watch_ranks([ended_with(0), ended_with(TIME_IS_UP), ended_with(128 + 15)])


def test_exit_codes_in_words() -> None:
    assert describe_exit_code(-9) == "SIGKILL"
    assert describe_exit_code(138) == "SIGUSR1"
    assert describe_exit_code(2) == "exit code 2"


def test_a_run_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    before = dict(os.environ)
    with restore_process_state():
        os.environ |= {"LOCAL_RANK": "0", "MASTER_PORT": "2"}
    assert dict(os.environ) == before


def test_ranks_of_a_machine_share_its_cores_during_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    before = torch.get_num_threads()
    with restore_process_state():
        share_cores(4)
        assert (torch.get_num_threads(), os.environ[THREADS_VARIABLE]) == (3, "3")
    assert torch.get_num_threads() == before
    assert THREADS_VARIABLE not in os.environ


def test_a_number_of_threads_that_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "7")
    before = torch.get_num_threads()
    with restore_process_state():
        share_cores(4)
        assert (torch.get_num_threads(), os.environ[THREADS_VARIABLE]) == (before, "7")


def test_a_rank_is_started_by_its_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    (tmp_path / "empty").mkdir()

    @hydra.main(version_base="1.3", config_path=str(tmp_path / "empty"), config_name="own")
    def main(config: Any) -> None:
        commands.append(rank_command(Path(f"sweep_{config.seed}")))

    (tmp_path / "own.yaml").write_text("seed: 0\nhydra: {output_subdir: null}\n")
    monkeypatch.chdir(tmp_path)
    flags = ["--config-name=own", f"--config-dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["show", "--multirun", flags[1], "seed=0,1"])
    main()
    assert commands == [
        [
            sys.executable,
            "-m",
            "vqgan_train",
            *flags,
            f"seed={seed}",
            f"run.output_dir=sweep_{seed}",
        ]
        for seed in (0, 1)
    ]
