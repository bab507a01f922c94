import json
import threading
from pathlib import Path

import pytest

from vqgan_train.images.bad_images import ChunkReport
from vqgan_train.system.errors import UserError
from vqgan_train.tokens.ledger import LEDGER, join_job, read_reports, remove_leftovers, write_report


def test_many_join_the_same_job_at_once(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / f"{number}"
        failed: list[Exception] = []

        def join(name: str, folder: Path = folder, failed: list[Exception] = failed) -> None:
            try:
                join_job(folder, {"a": 1})
                (folder / f"{name}.parquet").write_text("done")
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=join, args=(str(rank),)) for rank in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert json.loads((folder / LEDGER / "job.json").read_text()) == {"a": 1}


def test_another_job_is_refused(tmp_path: Path) -> None:
    join_job(tmp_path, {"a": 1, "b": 2})
    join_job(tmp_path, {"a": 1, "b": 2})
    with pytest.raises(UserError, match="b was 2, is 3"):
        join_job(tmp_path, {"a": 1, "b": 3})


def test_a_file_or_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        join_job(tmp_path / "file", {})
    with pytest.raises(UserError, match="holds files that no such command wrote"):
        join_job(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/below cannot be written: Not a directory"):
        join_job(tmp_path / "file" / "below", {})


def test_reports_are_of_what_is_done_and_add_up(tmp_path: Path) -> None:
    write_report(tmp_path, "001", ChunkReport(5, 4, 1, ["x: bad"]))
    write_report(tmp_path, "003", ChunkReport(2, 2, 0, []))
    found = read_reports(tmp_path, ["001", "002", "003"])
    assert list(found) == ["001", "003"]
    total = ChunkReport()
    for report in found.values():
        total.add(report)
    assert total == ChunkReport(7, 6, 1, ["x: bad"])


def test_leftovers_of_a_part_are_removed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    for name in ("001.npy.ab.partial", "001.json.cd.partial", "002.npy.ef.partial", "001.npy"):
        (tmp_path / name).touch()
        (tmp_path / LEDGER / name).touch()
    remove_leftovers(tmp_path, {"001", "003"})
    for folder in (tmp_path, tmp_path / LEDGER):
        assert {p.name for p in folder.iterdir() if p.is_file()} == {
            "002.npy.ef.partial", "001.npy",
        }  # fmt: skip
