"""All ways to launch two ranks give bit-equal runs; docs/launching.md has the table of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import rows

from .conftest import PATIENCE_SECONDS, ROOT, TRAIN, Variables, assert_same_run, run

pytestmark = pytest.mark.slow
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
SRUN = ("srun", "-N2", "-n2", "--kill-on-bad-exit=1")


def test_the_first_rank_starts_the_second(reference: Path) -> None:
    assert [row["step"] for row in rows(reference)] == ["0", "1", "2", "3", "4"]
    for rank in (0, 1):
        output = (reference / "logs" / f"rank_{rank}.log").read_text()
        assert " begins: " in output
        assert "vqgan_train-file: the process ends" in output


def test_torchrun(
    tmp_path: Path, shards: list[str], plain_environment: Variables, reference: Path
) -> None:
    command = [*TORCHRUN, "--nproc-per-node=2", "-m", "vqgan_train", *shards]
    finished = run(command, plain_environment, tmp_path)
    assert finished.returncode == 0, finished.stderr
    (run_folder,) = (tmp_path / "runs").iterdir()  # by the first rank, which told the other
    assert_same_run(run_folder, reference)


@pytest.fixture
def two_machines() -> Iterator[list[tuple[str, str]]]:
    """Names and addresses of two connected network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    machines = [(f"vqgan{os.getpid()}{end}", f"10.213.77.{n}") for n, end in enumerate("ab", 1)]
    (first, _), (second, _) = machines

    def ip(*words: str) -> None:
        finished = subprocess.run(["ip", *words], capture_output=True, text=True)
        if finished.returncode != 0:
            pytest.skip(f"ip {' '.join(words)}: {finished.stderr.strip()}")

    try:
        for name, _ in machines:
            ip("netns", "add", name)
        ip("link", "add", "v0", "netns", first, "type", "veth", "peer", "v0", "netns", second)
        for name, address in machines:
            ip("-n", name, "address", "add", f"{address}/24", "dev", "v0")
            for device in ("lo", "v0"):
                ip("-n", name, "link", "set", device, "up")
        yield machines
    finally:
        for name, _ in machines:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_torchrun_on_two_machines(
    tmp_path: Path,
    shards: list[str],
    plain_environment: Variables,
    reference: Path,
    two_machines: list[tuple[str, str]],
) -> None:
    environment = {**plain_environment, "GLOO_SOCKET_IFNAME": "v0"}
    meeting = (f"--master-addr={two_machines[0][1]}", "--master-port=29500", "--nnodes=2")
    job = ("--nproc-per-node=1", "-m", "vqgan_train", *shards, "run.output_dir=run")
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *TORCHRUN, *meeting, f"--node-rank={node}", *job],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node, (name, _) in enumerate(two_machines)
    ]
    try:
        output = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], output
    assert "learning rate" in output[0]
    assert "learning rate" not in output[1]
    assert_same_run(tmp_path / "run", reference)


def test_srun_twice_in_a_second(
    tmp_path: Path, shards: list[str], slurm: Variables, reference: Path
) -> None:
    processes = [
        subprocess.Popen([*SRUN, *TRAIN, *shards], env=dict(slurm), cwd=tmp_path) for _ in range(2)
    ]
    assert [process.wait(PATIENCE_SECONDS) for process in processes] == [0, 0]
    run_folders = sorted((tmp_path / "runs").iterdir())
    assert len(run_folders) == 2
    for folder in run_folders:
        assert_same_run(folder, reference)


def test_torchrun_in_a_job_of_slurm(
    tmp_path: Path, shards: list[str], slurm: Variables, reference: Path
) -> None:
    inner = ["python", *TORCHRUN[1:], "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    inner += ["--rdzv-endpoint=127.0.0.1:29501", "--rdzv-id=job", "-m", "vqgan_train", *shards]
    finished = run([*SRUN, *inner, "run.output_dir=run"], slurm, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert_same_run(tmp_path / "run", reference)


SWEEP = ("--multirun", "run.seed=0,1", "run.output_dir=run${run.seed}")


def sweep(shards: list[str], *more: str) -> list[str]:
    return [*TRAIN, *SWEEP, *shards, *more]


def assert_swept(folder: Path, reference: Path) -> None:
    assert_same_run(folder / "run0", reference)
    assert rows(folder / "run0") != rows(folder / "run1")
    assert len(rows(folder / "run1")) == 5


def assert_second_ranks_alone(folder: Path) -> None:
    """Check that each second rank was started with the settings of its own run only."""
    for seed in (0, 1):
        output = (folder / f"run{seed}" / "logs" / "rank_1.log").read_text()
        assert output.count("begins: ") == 1
        words = output.splitlines()[0].split()
        assert f"run.seed={seed}" in words


def test_a_sweep_in_one_process(
    tmp_path: Path, shards: list[str], plain_environment: Variables, reference: Path
) -> None:
    finished = run(sweep(shards, "trainer.devices=2"), plain_environment, tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_swept(tmp_path, reference)
    assert_second_ranks_alone(tmp_path)


def test_a_sweep_by_submitit_on_this_machine(
    tmp_path: Path, shards: list[str], plain_environment: Variables, reference: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ("hydra/launcher=submitit_local", "trainer.devices=2")
    finished = run(sweep(shards, *words), plain_environment, tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_swept(tmp_path, reference)
    assert_second_ranks_alone(tmp_path)


def test_a_sweep_by_submitit_as_jobs_of_slurm(
    tmp_path: Path, shards: list[str], slurm: Variables, reference: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ("hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2")
    finished = run(sweep(shards, *words), slurm, tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_swept(tmp_path, reference)


def test_more_devices_than_tasks_are_refused(
    tmp_path: Path, shards: list[str], slurm: Variables
) -> None:
    finished = run([*SRUN, *TRAIN, *shards, "trainer.devices=4"], slurm, tmp_path)
    assert finished.returncode != 0
    assert "srun has started 2 processes on 2 node(s), but trainer.devices=4" in finished.stderr
    assert "make 8 on 2" in finished.stderr
    assert not (tmp_path / "runs").exists()


def test_the_table_names_every_cell() -> None:
    page = (ROOT / "docs" / "launching.md").read_text()
    cells = [name for name in globals() if name.startswith("test_")]
    table = {name for name in cells if f"`{name}`" in page}
    assert set(cells) - table == {"test_the_table_names_every_cell"}
