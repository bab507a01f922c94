"""The table that compares the first and the last validation."""

import csv
import re
from pathlib import Path

import pytest
from tiny_runs import tiny_config

from vqgan_train.training.callbacks.progress import COMPARED, ValidationSummary
from vqgan_train.training.train import train


def summary_of(first: float, last: float) -> ValidationSummary:
    """Make a summary in which all metrics changed from `first` to `last`."""
    summary = ValidationSummary()
    summary.first, summary.last = dict.fromkeys(COMPARED, first), dict.fromkeys(COMPARED, last)
    return summary


def test_the_table_compares_first_and_last() -> None:
    summary = summary_of(2.0, 1.5)
    lines = summary.table(700).splitlines()
    assert lines[0].split() == ["validation", "before", "step", "700", "change"]
    assert lines[1].split() == ["reconstruction", "(L1", "+", "LPIPS)", "2", "1.5", "-25%"]
    assert len({len(line) for line in lines}) == 1


def test_what_was_left_out_is_shown_if_there_is_some() -> None:
    summary = summary_of(2.0, 1.5)
    summary.skipped_data = {"data/bad_samples": 0.0, "data/bad_shards": 0.0}
    plain = summary.table(700).splitlines()
    summary.skipped_data = {"data/bad_samples": 12.0, "data/bad_shards": 1.0}
    *lines, samples, shards = summary.table(700).splitlines()
    assert lines == plain
    assert samples.split() == ["unreadable", "samples", "12"]
    assert shards.split() == ["damaged", "or", "dead", "shards", "1"]
    assert len(samples) == len(shards) == len(lines[0])


def test_codes_used_are_whole_numbers() -> None:
    assert "16384" in summary_of(16_384.0, 16_384.0).table(1).splitlines()[6]


def test_a_metric_that_was_zero_has_no_change_in_percent() -> None:
    assert "%" not in summary_of(0.0, 1.0).table(1)


def test_a_metric_that_was_not_measured_before_is_not_compared() -> None:
    summary = summary_of(2.0, 1.5)
    del summary.first["val/ssim"]
    assert "SSIM" not in summary.table(1)
    assert "PSNR" in summary.table(1)


def test_validation_measures_what_was_chosen_and_says_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path, "run.val_metrics=[ssim]"))
    out = capsys.readouterr().out
    assert re.search(
        r"^validation   3 times, \S+ s each \(the time of \S+ training steps\)$", out, re.MULTILINE
    )
    assert "PSNR" not in out
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["val/ssim"]) < 1
    assert 0 < float(row["val/seconds"]) < 60
    assert "val/psnr" not in row


def test_a_resumed_run_compares_with_the_start_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for steps in (2, 4):
        train(tiny_config(tmp_path, f"run.max_steps={steps}"))
        out = capsys.readouterr().out
        tables += [line.split() for line in out.splitlines() if line.startswith("LPIPS")]
    (_, before, middle, _), (_, before_resumed, end, _) = tables
    assert before_resumed == before
    assert len({before, middle, end}) == 3
