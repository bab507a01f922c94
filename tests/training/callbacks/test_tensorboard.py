"""`logger.tensorboard=true`: the rows of metrics.csv and the pictures, each step once."""

import csv
import logging
import sys
from pathlib import Path

import pytest
from tiny_runs import tiny_config

from vqgan_train.system.errors import UserError
from vqgan_train.training.train import train


@pytest.mark.slow
def test_tensorboard_shows_what_the_csv_has_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("logger.tensorboard=true", "run.val_every_steps=1", "run.log_every_steps=1")
    for max_steps in (2, 4):
        train(tiny_config(tmp_path, *settings, f"run.max_steps={max_steps}"))
    run = tmp_path / "run"
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    with (run / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for name in ("train/loss/reconstruction", "val/psnr"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        written = [(int(row["step"]), float(row[name])) for row in table if row[name]]
        assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in written]
        assert len(written) >= 4
    assert [event.step for event in events.Images("val/pictures")] == [0, 1, 2, 3, 4]


def test_without_tensorboard_the_extra_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"logger.tensorboard=true needs.*tensorboard"):
        tiny_config(tmp_path, "logger.tensorboard=true")
    assert not (tmp_path / "run").exists()
