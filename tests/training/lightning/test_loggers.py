"""metrics.csv: exact values, one row per step, readable after a crash at any moment."""

import csv
import math
from pathlib import Path

import pytest

from vqgan_train.training.lightning.loggers import MetricsCsv


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in rows(path)]


def logged(path: Path, *, upto: int) -> MetricsCsv:
    logger = MetricsCsv(path)
    for step in range(1, upto + 1):
        logger.log_metrics({"a": step / 10}, step)
    return logger


def test_what_is_logged_at_one_step_is_one_row(path: Path) -> None:
    logger = MetricsCsv(path)
    logger.log_metrics({"a": 1.0, "b": 2.0}, 1)
    logger.log_metrics({"c": 3.0}, 1)
    logger.log_metrics({"a": 4.0}, 2)
    assert rows(path) == [
        {"step": "1", "a": "1.0", "b": "2.0", "c": "3.0"},
        {"step": "2", "a": "4.0", "b": "", "c": ""},
    ]


def test_a_new_metric_adds_a_column_to_the_rows_before(path: Path) -> None:
    logger = logged(path, upto=3)
    logger.log_metrics({"a": 9.0, "b": 1.0}, 4)
    assert [row["b"] for row in rows(path)] == ["", "", "", "1.0"]
    assert [row["a"] for row in rows(path)] == ["0.1", "0.2", "0.3", "9.0"]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, -0.0, 2**53 - 1, math.inf, 4.5e-6])
def test_values_come_back_to_the_last_bit(path: Path, value: float) -> None:
    MetricsCsv(path).log_metrics({"a": value}, 0)
    assert float(rows(path)[0]["a"]) == value


def test_a_value_that_is_no_number_is_shown(path: Path) -> None:
    MetricsCsv(path).log_metrics({"a": math.nan}, 0)
    assert math.isnan(float(rows(path)[0]["a"]))


def test_a_row_is_on_disk_as_soon_as_it_is_logged(path: Path) -> None:
    # A checkpoint and a crash may follow at once, and then nothing logs the step again.
    logger = logged(path, upto=2)
    assert steps(path) == [1, 2]
    logger.log_metrics({"val/a": 1.0}, 2)
    assert rows(path)[-1] == {"step": "2", "a": "0.2", "val/a": "1.0"}


def test_a_rewind_drops_what_will_be_made_again(path: Path) -> None:
    logged(path, upto=5)
    resumed = MetricsCsv(path)
    resumed.rewind(3)
    assert steps(path) == [1, 2, 3]
    resumed.log_metrics({"a": 7.0}, 4)
    resumed.log_metrics({"b": 1.0}, 5)
    assert [row["a"] for row in rows(path)] == ["0.1", "0.2", "0.3", "7.0", ""]


def test_what_is_logged_at_the_step_of_a_rewind_joins_its_row(path: Path) -> None:
    logged(path, upto=3)
    resumed = MetricsCsv(path)
    resumed.rewind(3)
    resumed.log_metrics({"val/a": 1.0}, 3)
    assert steps(path) == [1, 2, 3]
    assert rows(path)[-1] == {"step": "3", "a": "0.3", "val/a": "1.0"}


def test_a_rewind_to_before_all_rows_or_of_nothing_leaves_nothing(path: Path) -> None:
    MetricsCsv(path).rewind(0)
    assert not path.exists()
    logged(path, upto=3)
    resumed = MetricsCsv(path)
    resumed.rewind(0)
    resumed.log_metrics({"a": 5.0}, 1)
    assert rows(path) == [{"step": "1", "a": "5.0"}]


def test_a_run_cut_off_at_any_byte_goes_on_with_whole_rows(path: Path) -> None:
    logger = MetricsCsv(path)
    for step in (1, 2, 12, 23):
        logger.log_metrics({"a": step / 10, "b": step / 7}, step)
    whole = path.read_bytes()
    complete = rows(path)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        resumed = MetricsCsv(path)
        resumed.rewind(100)
        resumed.log_metrics({"a": 9.9, "b": 8.8}, 101)
        *kept, last = rows(path)
        assert kept == complete[: len(kept)]
        assert len(kept) >= whole[:end].count(b"\n") - 1
        assert last == {"step": "101", "a": "9.9", "b": "8.8"}


def test_a_crash_while_columns_are_added_keeps_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logged(path, upto=3)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="No space"):
        logger.log_metrics({"b": 1.0}, 4)
    assert path.read_bytes() == before
