"""A real Slurm on this machine, and the reference run that all launchers must reproduce."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_runs import assert_equal, load, rows, tiny_overrides

ROOT = Path(__file__).parents[3]
TRAIN = (sys.executable, "-m", "vqgan_train")
PATIENCE_SECONDS = 240

Variables = Mapping[str, str]


def script(name: str) -> ModuleType:
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plain_environment() -> dict[str, str]:
    """This process's environment without the variables of schedulers and launchers."""
    foreign = ("SLURM_", "SLURMD_", "MASTER_", "TORCHELASTIC_", "VQGAN_TRAIN_")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k not in names}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def slurm(
    tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Environment in which Slurm's commands use a Slurm of two nodes that is started here."""
    one_machine = script("slurm_on_one_machine")
    missing = one_machine.missing_here()
    if missing:
        pytest.skip(f"no Slurm on this machine: {missing}")
    folder = tmp_path_factory.mktemp("slurm")
    configuration = one_machine.start(folder)
    try:
        yield {**plain_environment, "SLURM_CONF": str(configuration)}
    finally:
        one_machine.stop(folder)


def run(command: Any, environment: Variables, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end and capture its output."""
    return subprocess.run(
        [str(word) for word in command],
        env=dict(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a tiny run, without run.output_dir."""
    words = tiny_overrides(tmp_path_factory.mktemp("shards"))
    return [word for word in words if not word.startswith("run.output_dir=")]


def changed(words: Sequence[str], *changes: str) -> list[str]:
    """Return settings with changes; each setting once, because the command refuses it twice."""
    return list({word.split("=")[0]: word for word in (*words, *changes)}.values())


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, shards: list[str], plain_environment: dict[str, str]
) -> Path:
    """Run folder of two ranks, of which the first started the second."""
    folder = tmp_path_factory.mktemp("reference")
    command = [*TRAIN, *shards, "run.output_dir=run", "trainer.devices=2"]
    finished = run(command, plain_environment, folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("To train longer:") == 1, "only the first rank speaks"
    assert "GLOBAL_RANK" not in finished.stderr
    return folder / "run"


def assert_same_run(one: Path, other: Path) -> None:
    """Compare weights, optimizer, data position and metrics of two runs bit by bit."""
    left, right = (load(run / "checkpoints" / "last.ckpt") for run in (one, other))
    for part in ("state_dict", "optimizer_states", "global_step", "ShardDataModule"):
        assert_equal(left[part], right[part])
    assert rows(one) == rows(other)
    assert [file.name for file in sorted((one / "logs").iterdir())] == ["rank_0.log", "rank_1.log"]
