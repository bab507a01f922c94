"""Ranks that do not find the same run do not begin."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.callbacks import SameStart
from vqgan_train.training.run.logs import rank_log

SETTINGS: dict[str, Any] = {
    "run": {"output_dir": None, "seed": 0},
    "data": {"batch_size": 4, "num_workers": 2, "train_shards": ["a.tar"]},
}


def given(**changes: Any) -> dict[str, Any]:
    """Settings, some of them others."""
    return {
        group: {name: changes.get(name, value) for name, value in values.items()}
        for group, values in SETTINGS.items()
    }


def second_rank(folder: Path, step: int, others_agree: bool = True) -> Any:
    """A trainer of a rank that is told what the first one has."""
    strategy = SimpleNamespace(
        broadcast=lambda _own: (str(folder), step, SETTINGS),
        reduce_boolean_decision=lambda agrees, all: agrees and others_agree,
    )
    return SimpleNamespace(strategy=strategy, global_rank=1)


def start(folder: Path, step: int, trainer: Any, settings: dict[str, Any] = SETTINGS) -> None:
    with rank_log() as log:
        callback = SameStart(folder, step, settings, log)
        callback.setup(trainer, pl_module=None, stage="fit")  # type: ignore[arg-type]


def test_the_log_lies_in_the_first_ranks_folder(tmp_path: Path) -> None:
    start(Path("runs"), 3, second_rank(tmp_path, 3))
    assert (tmp_path / "logs" / "rank_0.log").exists()


def test_another_step_is_refused_on_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="begins at step 0, the first rank at step 40"):
        start(tmp_path, 0, second_rank(tmp_path, 40))
    with pytest.raises(RunFolderError, match="Another rank was given other settings, or finds"):
        start(tmp_path, 40, second_rank(tmp_path, 40, others_agree=False))


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as refused:
        start(tmp_path, 0, second_rank(tmp_path, 0), given(batch_size=2, seed=3))
    assert str(refused.value) == (
        "Rank 1 was given other settings than the first rank:\n"
        "  data.batch_size: 4 there, 2 here\n"
        "  run.seed: 0 there, 3 here\n"
        "Start all ranks with the same ones."
    )


def test_machines_may_differ(tmp_path: Path) -> None:
    elsewhere = given(num_workers=7, train_shards=["/disk/a.tar"])
    start(tmp_path, 0, second_rank(tmp_path, 0), elsewhere)


def test_another_folder_is_not_ignored(tmp_path: Path) -> None:
    start(tmp_path, 0, second_rank(tmp_path, 0), given(output_dir=str(tmp_path)))
    with pytest.raises(RunFolderError, match=f"run.output_dir: {tmp_path} there, runs/c here"):
        start(tmp_path, 0, second_rank(tmp_path, 0), given(output_dir="runs/c"))
