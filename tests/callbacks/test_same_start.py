"""Ranks that do not find the same run do not begin."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vqgan_train.callbacks import SameStart
from vqgan_train.rank_log import rank_log
from vqgan_train.run_folder import RunFolderError


def second_rank(first_ranks: tuple[str, int], others_agree: bool = True) -> Any:
    """A trainer of a rank that is told what the first one has."""
    strategy = SimpleNamespace(
        broadcast=lambda _own: first_ranks,
        reduce_boolean_decision=lambda agrees, all: agrees and others_agree,
    )
    return SimpleNamespace(strategy=strategy, global_rank=1)


def start(folder: Path, step: int, trainer: Any) -> None:
    with rank_log() as log:
        SameStart(folder, step, log).setup(trainer, pl_module=None, stage="fit")  # type: ignore[arg-type]


def test_the_log_lies_in_the_first_ranks_folder(tmp_path: Path) -> None:
    start(Path("runs"), 3, second_rank((str(tmp_path), 3)))
    assert (tmp_path / "logs" / "rank_0.log").exists()


def test_another_step_is_refused_on_all_ranks(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="begins at step 0, the first rank at step 40"):
        start(tmp_path, 0, second_rank((str(tmp_path), 40)))
    with pytest.raises(RunFolderError, match="file system that all machines"):
        start(tmp_path, 40, second_rank((str(tmp_path), 40), others_agree=False))
