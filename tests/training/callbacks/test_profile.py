"""Profiler traces of some steps."""

import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_config

from vqgan_train.training.train import train

pytestmark = pytest.mark.usefixtures("quick_lpips")


def traces(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "profile").glob("*"))


def test_five_steps_are_traced(tmp_path: Path) -> None:
    rarely = ("run.val_every_steps=99", "run.checkpoint_every_steps=99")
    train(tiny_config(tmp_path, "trainer.profile_step=1", "run.max_steps=7", *rarely))
    assert traces(tmp_path) == ["step_000001_rank_0.json.gz", "step_000001_rank_0.txt"]
    folder = tmp_path / "run" / "profile"
    events = json.loads(gzip.decompress((folder / "step_000001_rank_0.json.gz").read_bytes()))
    updates = [e for e in events["traceEvents"] if e.get("name") == "aten::_fused_adam_"]
    assert len(updates) == 5
    assert "aten::convolution_backward" in (folder / "step_000001_rank_0.txt").read_text()


@pytest.mark.slow
def test_writing_a_trace_is_no_part_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, slowly = torch.profiler.profile.export_chrome_trace, 5.0

    def write_slowly(*arguments: Any) -> Any:
        time.sleep(slowly)
        return write(*arguments)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", write_slowly)
    train(tiny_config(tmp_path, "trainer.profile_step=1", "run.max_steps=8"))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["train/step_seconds"]]
    assert len(steps) == 8
    assert max(float(row["train/step_seconds"]) for row in steps) < slowly


def test_a_run_that_ends_before_keeps_what_there_is(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "trainer.profile_step=1", "run.max_steps=2"))
    assert len(traces(tmp_path)) == 2


def test_a_run_that_has_no_such_step_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path, "trainer.profile_step=1", "run.max_steps=1"))
    assert "profile_step=1 is not among the steps 0 to 0" in capsys.readouterr().out
    assert traces(tmp_path) == []
