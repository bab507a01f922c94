"""Interrupted Slurm jobs: they save, restart, and end like an undisturbed job."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import load, rows, wait_until

from .conftest import PATIENCE_SECONDS, ROOT, Variables, assert_same_run, changed

pytestmark = pytest.mark.slow
TEMPLATE = ROOT / "scripts" / "slurm" / "train.sbatch"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
SECONDS_TO_FORGET = 5
"""Wait before a restart, because nodes refuse a job that they killed a moment ago."""

SETTINGS = {
    "run.max_steps": 100,
    "run.val_every_steps": 50,
    "run.checkpoint_every_steps": 1000,  # what is saved is saved because of a signal
}


@pytest.fixture
def job(tmp_path: Path, shards: list[str], slurm: Variables) -> "Job":
    return Job(tmp_path, shards, slurm)


class Job:
    """Submits and observes jobs of two nodes, with their files in one folder."""

    def __init__(
        self, folder: Path, shards: list[str], environment: Variables, **settings: int
    ) -> None:
        self.folder = folder
        merged = {**SETTINGS, **settings}
        self.words = changed(shards, *(f"{name}={value}" for name, value in merged.items()))
        self.environment = dict(environment)

    def ask(self, *command: str) -> str:
        """Run a Slurm command and return its output."""
        answer = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def submit(self, folder: str, *limit: str) -> str:
        """Submit a job with a run in a folder; return its number."""
        self.environment["OUTPUT_DIR"] = folder
        size = ("--nodes=2", "--ntasks-per-node=1", *(limit or ("--time=10",)))
        return self.ask("sbatch", "--parsable", *size, str(TEMPLATE), *self.words)

    def state(self, number: str) -> str:
        """Return the state of a job: PENDING, RUNNING, COMPLETED, ..."""
        return self.ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T")

    def wait_for_step(self, number: str, folder: str, step: int) -> None:
        """Wait until a run has made a step; fail if it has made all its steps."""
        file = self.folder / folder / "metrics.csv"

        def lines() -> int:
            return len(file.read_text().splitlines()) if file.exists() else 0

        wait_until(lambda: lines() > step + 1 or self.has_ended(number), PATIENCE_SECONDS)
        assert lines() <= SETTINGS["run.max_steps"], self.said(number)

    def has_ended(self, number: str) -> bool:
        return self.state(number) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

    def start_again(self, number: str) -> None:
        """Restart a requeued job without Slurm's delay of two minutes."""
        wait_until(lambda: self.state(number) == "PENDING", PATIENCE_SECONDS)
        time.sleep(SECONDS_TO_FORGET)
        self.ask("scontrol", "update", f"JobId={number}", "StartTime=now")
        wait_until(lambda: self.state(number) != "PENDING", PATIENCE_SECONDS)

    def wait(self, number: str) -> None:
        """Wait until a job has completed."""
        wait_until(lambda: self.has_ended(number), PATIENCE_SECONDS)
        assert self.state(number) == "COMPLETED", self.said(number)

    def said(self, number: str) -> str:
        file = self.folder / f"slurm-{number}.out"
        return file.read_text() if file.exists() else ""


def test_a_job_that_is_preempted_twice(job: Job) -> None:
    disturbed = job.submit("disturbed")
    job.wait_for_step(disturbed, "disturbed", 10)
    job.ask("scancel", "--signal=USR1", disturbed)  # as --signal does, before the time limit
    job.start_again(disturbed)
    job.wait_for_step(disturbed, "disturbed", 45)
    job.ask("scontrol", "requeue", disturbed)  # as a preemption does
    job.start_again(disturbed)
    job.wait(disturbed)
    said = job.said(disturbed)
    assert said.count("SIGUSR1: the run has saved its state and stops.") == 1
    assert said.count("SIGTERM: the run has saved its state and stops.") == 1
    assert said.count("resuming at step") == 2
    assert "Restarts=2" in job.ask("scontrol", "show", "job", disturbed)

    undisturbed = job.submit("undisturbed")
    job.wait(undisturbed)
    assert "going on" not in job.said(undisturbed)
    assert_same_run(job.folder / "disturbed", job.folder / "undisturbed")


def test_a_job_whose_time_limit_comes_saves_before_it(
    tmp_path: Path, shards: list[str], slurm: Variables
) -> None:
    job = Job(tmp_path, shards, slurm, **{"run.max_steps": 100_000})
    # 60 s for the start on a busy machine, and as many before the end; the template has 300.
    limit = ("--time=2", "--signal=USR1@60")
    number = job.submit("limited", *limit)
    asked = "asking Slurm to start"
    wait_until(lambda: asked in job.said(number) or job.has_ended(number), PATIENCE_SECONDS)
    job.ask("scancel", number)
    saved = load(job.folder / "limited" / "checkpoints" / "last.ckpt")["global_step"]
    assert saved > 0
    assert f"Saved (SIGUSR1, step {saved})" in job.said(number)
    assert "TIME LIMIT" not in job.said(number)


def has_steps(run: Path) -> bool:
    return (run / "metrics.csv").exists() and len(rows(run)) > 3


def test_torchrun_hands_the_signal_on_if_it_is_told_to(
    tmp_path: Path, shards: list[str], plain_environment: Variables
) -> None:
    handled = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    words = changed(shards, "run.max_steps=100000", "run.output_dir=run")
    with (tmp_path / "said").open("w") as said:
        torchrun = subprocess.Popen(
            [*TORCHRUN, handled, "--nproc-per-node=2", "-m", "vqgan_train", *words],
            env=dict(plain_environment),
            cwd=tmp_path,
            stdout=said,
            stderr=said,
        )
        try:
            wait_until(
                lambda: has_steps(tmp_path / "run") or torchrun.poll() is not None,
                PATIENCE_SECONDS,
            )
            torchrun.send_signal(signal.SIGUSR1)
            assert torchrun.wait(PATIENCE_SECONDS) == 1  # whatever its ranks end with
        finally:
            torchrun.kill()
    stopped = (tmp_path / "run" / "stopped").read_text()
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert stopped == f"SIGUSR1, step {step}\n"
