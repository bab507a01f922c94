"""A folder holds one job: the same one resumes, another is refused."""

import json
import threading
from functools import partial
from pathlib import Path

import pytest

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import fingerprint
from vqgan_train.system.job_file import join_job, open_job, require_free_or_same

JOB = {"command": "x", "sizes": (1, 2.5), "name": "ü", "nothing": None}
HIDDEN = ".hidden/job.json"


def test_the_same_job_goes_on_and_leftovers_are_swept(tmp_path: Path) -> None:
    open_job(tmp_path / "out", JOB)
    leftover = tmp_path / "out" / "train" / "0.tar.12ab34cd.partial"
    leftover.parent.mkdir()
    leftover.touch()
    open_job(tmp_path / "out", JOB)
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "u"}, "name was ü, is u"),
        ({"sizes": [1, 2]}, r"sizes was \[1, 2\.5\], is \[1, 2\]"),
        ({"new": 1}, "new was null, is 1"),
    ],
)
def test_another_job_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    open_job(tmp_path / "own", JOB)
    join_job(tmp_path / "shared", JOB, HIDDEN)
    join_job(tmp_path / "shared", JOB, HIDDEN)
    for folder, begin in (
        ("own", open_job),
        ("own", require_free_or_same),
        ("shared", partial(join_job, job_file=HIDDEN)),
    ):
        with pytest.raises(UserError, match=told):
            begin(tmp_path / folder, {**JOB, **change})


def test_a_file_or_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for begin in (open_job, require_free_or_same, partial(join_job, job_file=HIDDEN)):
        with pytest.raises(UserError, match="is a file"):
            begin(tmp_path / "file", JOB)
        with pytest.raises(UserError, match="this command did not begin it"):
            begin(tmp_path, JOB)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_many_join_the_same_job_at_once(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / f"{number}"
        failed: list[Exception] = []

        def join(name: str, folder: Path = folder, failed: list[Exception] = failed) -> None:
            try:
                join_job(folder, {"a": 1}, HIDDEN)
                (folder / f"{name}.parquet").write_text("done")
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=join, args=(str(rank),)) for rank in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert json.loads((folder / HIDDEN).read_text()) == {"a": 1}


def test_looking_leaves_nothing(tmp_path: Path) -> None:
    require_free_or_same(tmp_path / "out", JOB)
    assert not list(tmp_path.iterdir())


def test_fingerprints_differ_where_anything_does() -> None:
    lists = [[], [""], ["", ""], ["ab"], ["a", "b"], [("a", 1)], [("a", 2)], ["\udcff"], [None]]
    assert len({fingerprint(parts) for parts in lists}) == len(lists)
    assert fingerprint(["a"]) == fingerprint(iter(["a"]))
