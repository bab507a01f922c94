"""Writing an evaluation into a folder and reading it back loses nothing."""

import csv
import errno
import json
import math
import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_reader import read_evaluation
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.report.evaluation_folder import (
    IMAGES_FILE,
    JSON_FILE,
    PAGE_FILE,
    PICTURES,
    SUMMARY_FILE,
    require_output,
    write_evaluation,
)
from vqgan_train.evaluation.report.results import ALL, SetDistance, Summary
from vqgan_train.evaluation.report.table import CODEBOOK_METRICS
from vqgan_train.system.errors import UserError


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


def test_a_caption_may_be_a_book(tmp_path: Path) -> None:
    found = tiny_evaluation()
    captions = ("word " * 40_000, *found.images.captions[1:])
    found = replace(found, images=replace(found.images, captions=captions))
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
    (rfid, of_two) = (r for r in rows if r["metric"] == "rfid" and r["checkpoint"] == "after")
    assert (of_two["compared_with"], of_two["value"], of_two["low"]) == ("before", "0.0", "")
    assert {r["metric"] for r in rows if r["compared_with"]} == {"psnr", "rfid", *CODEBOOK_METRICS}
    of_vgg = [r for r in rows if r["metric"].endswith("lpips_vgg") and not r["compared_with"]]
    assert {r["evaluator"] for r in of_vgg} == {"LPIPS v0.1, VGG16"}
    assert (rfid["value"], rfid["count"], rfid["comparable"]) == ("4.25", "6", "0")
    (change,) = (r for r in rows if r["compared_with"] and r["metric"] == "psnr")
    assert (change["checkpoint"], change["value"], change["share_better"]) == (
        "after", "0.2", "0.75",
    )  # fmt: skip


def test_text_that_spreadsheets_take_for_a_formula_is_defused(tmp_path: Path) -> None:
    found = tiny_evaluation()
    keys = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain=1")
    names = {c.name: f"={c.name}" for c in found.checkpoints}
    hostile = replace(
        found,
        images=replace(found.images, keys=keys, captions=keys),
        checkpoints=tuple(replace(c, name=names[c.name]) for c in found.checkpoints),
        differences=(),
        pictures=(),
    )
    write_evaluation(hostile, tmp_path)
    with (tmp_path / IMAGES_FILE).open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert [row[1] for row in rows] == [f"'{key}" for key in keys[:-1]] + ["plain=1"]
    with (tmp_path / SUMMARY_FILE).open(newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row} | set(head)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    numbers = [cell for cell in cells if cell.startswith("-")]
    assert all(float(cell) < 0 for cell in numbers), "a negative number stays one"


def test_an_interval_that_is_not_known_is_null_or_nothing(tmp_path: Path) -> None:
    found, nan = tiny_evaluation(), float("nan")
    once = Summary(mean=0.5, low=nan, high=nan, count=1, num_infinite=0)
    (difference,) = found.differences
    nothing = SetDistance(value=nan, evaluator="ours", count=0)
    unsure = replace(
        found,
        checkpoints=tuple(
            replace(c, summaries={ALL: {"psnr": once}}, rfid={ALL: nothing})
            for c in found.checkpoints
        ),
        differences=(replace(difference, change=once, share_better=nan),),
    )
    write_evaluation(unsure, tmp_path)
    text = (tmp_path / JSON_FILE).read_text()
    assert "nan" not in text.lower()
    plain = json.loads(text)
    assert plain["checkpoints"][0]["summaries"][ALL]["psnr"]["low"] is None
    assert plain["differences"][0]["change"]["high"] is None
    with (tmp_path / SUMMARY_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "nan" not in (tmp_path / SUMMARY_FILE).read_text()
    (row,) = (r for r in rows if r["checkpoint"] == "before" and r["metric"] == "psnr")
    assert (row["value"], row["low"], row["high"]) == ("0.5", "", "")
    again = read_evaluation(tmp_path)
    assert not again.checkpoints[0].summaries[ALL]["psnr"].has_interval
    assert not again.differences[0].is_certain
    assert math.isnan(again.differences[0].share_better)
    assert math.isnan(again.checkpoints[0].rfid[ALL].value)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"output=.*/out cannot be written: Permission denied"):
        require_output(tmp_path / "out")


def test_a_file_in_the_way_is_found_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        require_output(tmp_path / "file")
    with pytest.raises(UserError, match="/file/out cannot be written: Not a directory"):
        require_output(tmp_path / "file" / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_refused_and_nothing_is_left(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    require_output(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=f"cannot be written: {os.strerror(number)}. Choose"):
        require_output(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tables_and_pictures_of_somebody_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / IMAGES_FILE).write_text("my,own\n")
    with pytest.raises(UserError, match="holds files that no evaluation wrote"):
        require_output(tmp_path)
    (tmp_path / IMAGES_FILE).unlink()
    write_evaluation(tiny_evaluation(), tmp_path)
    theirs = tmp_path / PICTURES / "cat.png"
    theirs.write_bytes(b"")
    require_output(tmp_path)
    write_evaluation(tiny_evaluation(images=1), tmp_path)
    assert theirs.exists()
    kept = read_evaluation(tmp_path).pictures
    assert len(list((tmp_path / PICTURES).iterdir())) == 1 + 3 * len(kept)


def test_a_page_of_before_does_not_stand_beside_new_numbers(tmp_path: Path) -> None:
    write_evaluation(tiny_evaluation(), tmp_path)
    (tmp_path / PAGE_FILE).write_text("of before")
    write_evaluation(tiny_evaluation(images=1), tmp_path)
    assert not (tmp_path / PAGE_FILE).exists()


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "images.csv.0a1b2c3d.partial").write_text("cut o")
    require_output(tmp_path)
    (tmp_path / "thesis.tex").write_text("of years")
    with pytest.raises(UserError, match="holds files that no evaluation wrote"):
        require_output(tmp_path)
