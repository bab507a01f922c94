"""Writing a checkpoint: the new file or the old one, never half of one."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.checkpoint.writing import copy_atomically, save_atomically

OLD = {"state_dict": {"weight": torch.zeros(100)}}
NEW = {"state_dict": {"weight": torch.ones(100_000)}, "epoch": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds the old checkpoint."""
    path = tmp_path / "last.ckpt"
    save_atomically(OLD, path)
    return path


def stop_midway(error: BaseException) -> Callable[[Any, IO[bytes]], None]:
    """A torch.save that writes something and fails."""

    def save(_: Any, file: IO[bytes]) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        raise error

    return save


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_untouched(path: Path) -> None:
    assert read_checkpoint(path)["state_dict"]["weight"].tolist() == [0.0] * 100
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "last.ckpt"
    save_atomically(NEW, path)
    content = read_checkpoint(path)
    assert content["epoch"] == 3
    assert torch.equal(content["state_dict"]["weight"], torch.ones(100_000))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_copy_replaces_the_old_file_unless_it_is_damaged(path: Path) -> None:
    source = path.with_name("best.ckpt")
    save_atomically(NEW, source)
    whole = source.read_bytes()
    source.write_bytes(whole.replace(torch.ones(64).numpy().tobytes(), bytes(256), 1))
    with pytest.raises(OSError, match="is damaged although it was just written"):
        copy_atomically(source, path)
    assert read_checkpoint(path)["state_dict"]["weight"].tolist() == [0.0] * 100
    source.write_bytes(whole)
    copy_atomically(source, path)
    assert path.read_bytes() == whole
    assert not path.samefile(source)
    assert {file.name for file in path.parent.iterdir()} == {"last.ckpt", "best.ckpt"}


def test_the_new_file_replaces_the_old(path: Path) -> None:
    save_atomically(NEW, path)
    assert read_checkpoint(path)["epoch"] == 3


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr
)
def test_a_write_that_stops_midway_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(torch, "save", stop_midway(error))
    with pytest.raises(type(error)):
        save_atomically(NEW, path)
    monkeypatch.undo()
    assert_untouched(path)


@pytest.mark.parametrize("size", [10, 1_000, 100_000])
def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(path: Path, size: int) -> None:
    with files_limited_to(size), pytest.raises(OSError, match="File too large"):
        save_atomically(NEW, path)
    assert_untouched(path)


def change_a_byte(descriptor: int) -> None:
    os.pwrite(descriptor, b"\xff", 200_000)


def cut_the_end_off(descriptor: int) -> None:
    os.truncate(descriptor, 200_000)


@pytest.mark.parametrize("damage", [change_a_byte, cut_the_end_off])
def test_a_disk_that_keeps_other_bytes_than_were_written_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[int], None]
) -> None:
    save = torch.save

    def save_and_damage(checkpoint: Any, file: IO[bytes]) -> None:
        save(checkpoint, file)
        file.flush()
        damage(file.fileno())

    monkeypatch.setattr(torch, "save", save_and_damage)
    with pytest.raises(OSError, match="is damaged although it was just written") as refused:
        save_atomically(NEW, path)
    assert refused.value.errno == errno.EIO
    assert_untouched(path)


def test_what_a_killed_process_left_is_no_hindrance(path: Path) -> None:
    path.with_name("last.ckpt.partial").write_bytes(b"half of a checkpoint" * 100_000)
    save_atomically(NEW, path)
    assert read_checkpoint(path)["epoch"] == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_is_on_disk_before_it_takes_the_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("sync", target.name))
        sync(descriptor)

    def rename(source: Path, target: Path) -> Path:
        events.append(("rename", source.name))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    save_atomically(NEW, path)
    partial = "last.ckpt.partial"
    assert events == [("sync", partial), ("rename", partial), ("sync", path.parent.name)]
