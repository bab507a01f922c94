"""An evaluation in a folder: nothing is lost on the way there and back."""

import csv
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.folder import JSON_FILE, SUMMARY_FILE, write_evaluation
from vqgan_train.evaluation.reading import EvaluationFileError, read_evaluation


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if is_dataclass(one):
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for own, others in zip(one, other, strict=True):
            assert_equal(own, others)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = tiny_evaluation()
    write_evaluation(found, tmp_path)
    assert_equal(read_evaluation(tmp_path), found)


def test_an_evaluation_without_faces_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = tiny_evaluation(images=1)
    write_evaluation(found, tmp_path)
    assert_equal(read_evaluation(tmp_path), found)


def test_the_json_is_what_others_read_too(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    write_evaluation(tiny_evaluation(), tmp_path)
    plain = json.loads((tmp_path / JSON_FILE).read_text(), parse_constant=refuse)
    assert plain["checkpoints"][0]["rfid"]["all"] == {
        "value": 4.25, "evaluator": "torchmetrics 1.9", "count": 6, "comparable": False,
    }  # fmt: skip
    assert plain["left_out"] == [{"metric": "lpips_alex", "reason": "no weights"}]


def test_the_table_has_a_row_a_number(tmp_path: Path) -> None:
    write_evaluation(tiny_evaluation(), tmp_path)
    with (tmp_path / SUMMARY_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(r["checkpoint"], r["compared_with"], r["group"], r["metric"]) for r in rows}) == (
        len(rows)
    )
    (rfid,) = (r for r in rows if r["metric"] == "rfid" and r["checkpoint"] == "after")
    assert (rfid["value"], rfid["count"], rfid["comparable"]) == ("4.25", "6", "0")
    (change,) = (r for r in rows if r["compared_with"])
    assert (change["checkpoint"], change["value"], change["share_better"]) == (
        "after", "0.2", "0.75",
    )  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1"])
def test_what_is_no_evaluation_is_refused_with_what_to_do(tmp_path: Path, damage: bytes) -> None:
    write_evaluation(tiny_evaluation(), tmp_path)
    (tmp_path / JSON_FILE).write_bytes(damage)
    with pytest.raises(EvaluationFileError, match="holds no evaluation that can be read"):
        read_evaluation(tmp_path)
