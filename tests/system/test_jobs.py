"""A folder holds one job: the same one resumes, another is refused."""

from pathlib import Path

import pytest

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import fingerprint
from vqgan_train.system.jobs import open_job, require_free_or_same

JOB = {"command": "x", "sizes": (1, 2.5), "name": "ü", "nothing": None}


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
        ({"new": 1}, "new was None, is 1"),
    ],
)
def test_another_job_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    open_job(tmp_path, JOB)
    for begin in (open_job, require_free_or_same):
        with pytest.raises(UserError, match=told):
            begin(tmp_path, {**JOB, **change})


def test_looking_leaves_nothing(tmp_path: Path) -> None:
    require_free_or_same(tmp_path / "out", JOB)
    assert not list(tmp_path.iterdir())


def test_fingerprints_differ_where_anything_does() -> None:
    lists = [[], [""], ["", ""], ["ab"], ["a", "b"], [("a", 1)], [("a", 2)], ["\udcff"], [None]]
    assert len({fingerprint(parts) for parts in lists}) == len(lists)
    assert fingerprint(["a"]) == fingerprint(iter(["a"]))
