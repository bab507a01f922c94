"""An OSError is the user's if it is about a configured path, and ours otherwise."""

import errno
import os
from pathlib import Path

import pytest

from vqgan_train.system.path_errors import explain_path_error

SETTINGS = {
    "run": {"output_dir": "out/run", "seed": 0, "resume": "auto", "parent": None},
    "data": {"train_shards": ["/photos/x{0..9}.tar", "s3://bucket/y.tar"], "cache_dir": ""},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")


def error(number: int, *files: str | None) -> OSError:
    return (
        OSError(number, os.strerror(number), files[0], None, *files[1:])
        if files
        else OSError(number, os.strerror(number))
    )


@pytest.mark.parametrize(
    ("raised", "setting"),
    [
        (error(errno.EACCES, "out/run"), "run.output_dir=out/run: Permission denied: out/run"),
        (error(errno.EROFS, "out/run/a/b"), "run.output_dir=out/run: Read-only file system"),
        (error(errno.EACCES, "out"), "run.output_dir=out/run: Permission denied: out"),
        (error(errno.ENOENT, "/photos/x3.tar"), "data.train_shards=/photos/x{0..9}.tar: No such"),
        (error(errno.EXDEV, "/elsewhere", "out/run/b"), "run.output_dir=out/run: Invalid cross"),
        (error(errno.EACCES, "/caches/vqgan_train/index/a"), "set XDG_CACHE_HOME"),
        (error(errno.ENOSPC, "/elsewhere/x"), "A disk is full (No space left on device: /else"),
        (error(errno.EDQUOT), "A disk is full (Disk quota exceeded)"),
    ],
)
def test_what_the_user_can_fix_is_told_by_setting(raised: OSError, setting: str) -> None:
    assert setting in (explain_path_error(raised, SETTINGS) or "")


@pytest.mark.parametrize(
    "raised",
    [
        error(errno.ENOENT, "/elsewhere/x"),
        error(errno.ENOENT, "out/runner"),
        error(errno.EACCES, "/photo/x3.tar"),
        error(errno.ENOENT, "/caches/other"),
        error(errno.EBADF),
        OSError("of ours"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError(errno.EBADF, "Bad file descriptor", 7),
    ],
    ids=repr,
)
def test_what_may_be_a_defect_of_ours_is_not_explained(raised: OSError) -> None:
    assert explain_path_error(raised, SETTINGS) is None
