"""The check that all ranks start with the same settings at the same step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vqgan_train.system.errors import RunFolderError
from vqgan_train.training.callbacks.rank_consistency import SameStartCheck
from vqgan_train.training.run.logs import rank_log

SETTINGS: dict[str, Any] = {
    "run": {"output_dir": None, "seed": 0},
    "data": {"batch_size": 4, "num_workers": 2, "train_shards": ["a.tar"]},
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return `SETTINGS` with changed values."""
    return {
        group: {name: changes.get(name, value) for name, value in values.items()}
        for group, values in SETTINGS.items()
    }


def second_rank(folder: Path, step: int, others_agree: bool = True) -> Any:
    """Make the trainer of rank 1, to which rank 0 broadcasts folder, step and `SETTINGS`."""

    def decide(agrees: bool, all: bool) -> bool:
        return (agrees and others_agree) if all else (agrees or others_agree)

    strategy = SimpleNamespace(
        broadcast=lambda _own: (str(folder), step, SETTINGS),
        reduce_boolean_decision=decide,
    )
    return SimpleNamespace(strategy=strategy, global_rank=1)


def start(folder: Path, step: int, trainer: Any, settings: dict[str, Any] = SETTINGS) -> None:
    with rank_log() as log:
        callback = SameStartCheck(folder, step, settings, log)
        callback.setup(trainer, pl_module=None, stage="fit")  # type: ignore[arg-type]


def test_the_log_lies_in_the_first_ranks_folder(tmp_path: Path) -> None:
    start(Path("runs"), 3, second_rank(tmp_path, 3))
    assert (tmp_path / "logs" / "rank_0.log").exists()


def test_another_step_is_refused_on_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="begins at step 0, the first rank at step 40"):
        start(tmp_path, 0, second_rank(tmp_path, 40))
    with pytest.raises(RunFolderError, match="Another rank has other settings or"):
        start(tmp_path, 40, second_rank(tmp_path, 40, others_agree=False))


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as refused:
        start(tmp_path, 0, second_rank(tmp_path, 0), changed(batch_size=2, seed=3))
    assert str(refused.value) == (
        "Rank 1 has other settings than the first rank:\n"
        "  data.batch_size: 4 on the first rank, 2 here\n"
        "  run.seed: 0 on the first rank, 3 here\n"
        "Start all ranks with the same settings."
    )


def test_machines_may_differ(tmp_path: Path) -> None:
    elsewhere = changed(num_workers=7, train_shards=["/disk/a.tar"])
    start(tmp_path, 0, second_rank(tmp_path, 0), elsewhere)


def test_another_folder_is_not_ignored(tmp_path: Path) -> None:
    start(tmp_path, 0, second_rank(tmp_path, 0), changed(output_dir=str(tmp_path)))
    with pytest.raises(RunFolderError, match=f"{tmp_path} on the first rank, runs/c here"):
        start(tmp_path, 0, second_rank(tmp_path, 0), changed(output_dir="runs/c"))
