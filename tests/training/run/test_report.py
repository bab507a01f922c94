"""The report at the end of a run."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_runs import tiny_config

from vqgan_train.training.report import command_to_train_longer

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("launched", "beginning"), [(TORCHRUN, "torchrun ... -m "), (SRUN, "srun ... ")]
)
def test_the_command_to_train_longer_is_launched_as_the_run_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launched: Mapping[str, str],
    beginning: str,
) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    command = command_to_train_longer(tiny_config(tmp_path), tmp_path / "run", steps=4, images=8)
    assert command.startswith(beginning)
    assert command.endswith(f"-m vqgan_train run.output_dir={tmp_path}/run run.max_steps=8")
