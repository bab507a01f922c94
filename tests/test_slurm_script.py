"""Slurm on one machine: what is missing is said, and nothing is left behind."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_on_one_machine.py"
spec = importlib.util.spec_from_file_location("slurm_on_one_machine", SCRIPT)
assert spec is not None
assert spec.loader is not None
slurm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slurm)


def test_what_is_missing_is_said_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_path", lambda command: None if command == "munged" else command)
    with pytest.raises(slurm.SlurmError, match=r"munged not installed \(apt-get install slurm-wlm"):
        slurm.start(tmp_path / "slurm")
    assert not (tmp_path / "slurm").exists()


def test_stopping_what_does_not_run_is_nothing(tmp_path: Path) -> None:
    slurm.stop(tmp_path)


def test_only_its_own_daemons_are_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / slurm.PROCESSES).write_text(json.dumps({"slurmd 0": other.pid}))
        slurm.stop(tmp_path)  # the number was given to another program since
        assert other.poll() is None
        other.kill()


@pytest.mark.skipif(bool(slurm.missing_here()), reason=slurm.missing_here() or "all is there")
def test_two_nodes_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    words = [sys.executable, str(SCRIPT)]
    started = subprocess.run([*words, "start", str(folder)], capture_output=True, text=True)
    try:
        assert started.stdout == f"export SLURM_CONF={folder}/slurm.conf\n", started.stderr
        environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}
        ran = subprocess.run(
            ["srun", "-N2", "-n2", "sh", "-c", "echo $SLURMD_NODENAME $MASTER_ADDR"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert sorted(ran.stdout.splitlines()) == ["n1 127.0.0.1", "n2 127.0.0.1"], ran.stderr
        again = subprocess.run([*words, "start", str(folder)], capture_output=True, text=True)
        assert "Slurm runs there. Stop it first." in again.stderr
        numbers = json.loads((folder / slurm.PROCESSES).read_text()).values()
        assert len(numbers) == 4
    finally:
        subprocess.run([*words, "stop", str(folder)], check=True)
    assert not any(slurm._is_ours(number) for number in numbers)
    assert not (folder / slurm.PROCESSES).exists()
