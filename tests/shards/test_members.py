"""Compare `read_members` with tarfile alone: members, end offsets and errors must be equal."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import image_samples, write_shard

from vqgan_train.shards import tar as members_module
from vqgan_train.shards.tar import Member, read_members

Outcome = tuple[list[Member], int, str]


def with_tarfile_alone(tar: tarfile.TarFile, _path: Path) -> Iterator[Member]:
    for info in tar:
        if info.size < 0:
            raise tarfile.ReadError(f"{info.name!a} has a negative size")
        if info.issparse():
            raise tarfile.ReadError(f"{info.name!a} is a sparse file")
        yield Member(info.name, info.isreg(), info.offset, info.offset_data, info.size, tar.offset)


def outcome(read: Callable[[tarfile.TarFile, Path], Iterator[Member]], path: Path) -> Outcome:
    """Return the members, the offset at which reading ends, and the error."""
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            try:
                for member in read(tar, path):
                    found.append(member)
            except (tarfile.TarError, ArithmeticError, ValueError) as error:
                return found, tar.offset, repr(error)
            return found, tar.offset, ""
    except tarfile.TarError as error:
        return found, -1, repr(error)


def assert_same(path: Path) -> Outcome:
    found = outcome(read_members, path)
    assert found == outcome(with_tarfile_alone, path)
    return found


def add(tar: tarfile.TarFile, name: str, num_bytes: int = 700, **attributes: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    tar.addfile(info, io.BytesIO(b"x" * num_bytes))


def write_motley(path: Path, tar_format: int) -> Path:
    """Write every kind of member that a tar of this format may hold."""
    headers = {"comment": "for all that follow"} if tar_format == tarfile.PAX_FORMAT else {}
    with tarfile.open(path, "w", format=tar_format) as tar:
        add(tar, "a.jpg")
        add(tar, "b.jpg", mtime=12.5 if headers else 12)
        add(tar, "empty.txt", 0)
        add(tar, "blocks.txt", 1024)
        add(tar, "n" * 100)
        add(tar, f"{'folder/' * 15}{'n' * 90}.jpg")  # of two parts
        add(tar, "folder", 0, type=tarfile.DIRTYPE)
        add(tar, "old_folder/", 0, type=tarfile.AREGTYPE)
        add(tar, "old.jpg", type=tarfile.AREGTYPE)
        add(tar, "link.jpg", 0, type=tarfile.SYMTYPE, linkname="a.jpg")
        add(tar, "hard.jpg", 0, type=tarfile.LNKTYPE, linkname="a.jpg")
        add(tar, "pipe", 0, type=tarfile.FIFOTYPE)
        add(tar, "contiguous.jpg", type=tarfile.CONTTYPE)
        add(tar, "device", 0, type=tarfile.CHRTYPE, devmajor=5, devminor=1)
        add(tar, "mode.jpg", mode=0o777, uid=1000, gid=2**21 - 1, uname="name", gname="group")
        if tar_format != tarfile.USTAR_FORMAT:
            add(tar, "ä.jpg")
            add(tar, f"{'x' * 300}.jpg")
            add(tar, "long.jpg", 0, type=tarfile.SYMTYPE, linkname="y" * 300)
            add(tar, "rich.jpg", uid=2**30)
        if headers:
            add(tar, "size.jpg", pax_headers={"size": "700"}, mtime=1.25)
            add(tar, "two.jpg", mtime=1.25, pax_headers={"atime": "3.5"})
        add(tar, "z.jpg")
    return path


FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("name", FORMATS)
def test_everything_that_a_tar_may_hold(tmp_path: Path, name: str) -> None:
    found, _, error = assert_same(write_motley(tmp_path / "a.tar", FORMATS[name]))
    assert not error
    assert (found[0].name, found[-1].name) == ("a.jpg", "z.jpg")


def test_a_header_for_all_that_follow(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"path": "all.jpg"}) as tar:
        add(tar, "a.jpg")
        add(tar, "b.jpg")
    found, _, _ = assert_same(tmp_path / "a.tar")
    assert [member.name for member in found] == ["all.jpg", "all.jpg"]


def test_real_photos(photo_shards: list[Path]) -> None:
    for path in photo_shards:
        assert assert_same(path)[2] == ""


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_tars_of_other_programs(tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    (tmp_path / "files").mkdir()
    for name in ("a.jpg", "b.jpg", "ä.jpg", "x" * 150 + ".jpg"):
        (tmp_path / "files" / name).write_bytes(b"x" * 600)
    for tar_format in ("ustar", "pax"):
        names = ["a.jpg", "b.jpg"] if tar_format == "ustar" else ["."]
        path = tmp_path / f"{tar_format}.tar"
        command = [program, f"--format={tar_format}", "-cf", str(path), *names]
        subprocess.run(command, cwd=tmp_path / "files", check=True)
        assert len(assert_same(path)[0]) >= len(names)


def small_shard(path: Path) -> Path:
    samples = [{**sample, "png": b"x" * 600} for sample in image_samples(2)]
    return write_shard(path, samples)


@pytest.mark.parametrize("kind", ["webdataset", "pax", "gnu"])
def test_cut_at_any_byte(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    if kind == "webdataset":
        with tarfile.open(path, "w") as tar:
            for name in ("a.jpg", "a.txt", "b.jpg"):
                add(tar, name, 100, mtime=1.5)
    else:
        with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
            for name in ("a.jpg", "a.txt", "ä" * 120, "b.jpg"):
                add(tar, name, 513)
    with tarfile.open(path, "r:") as tar:
        tar.getmembers()
        end = tar.offset + 2 * 512
    for size in range(end, -1, -1):
        os.truncate(path, size)
        assert_same(path)


def test_any_changed_byte(tmp_path: Path) -> None:
    """Change single bytes of every header field and of a few contents."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "first.jpg", 10)
        add(tar, "a.jpg", 600, mtime=1.5)
        add(tar, "b.jpg", 600)
        add(tar, "c.jpg", 10)
    content = path.read_bytes()[:9216]
    random = np.random.default_rng(0)
    headers = *range(1024, 1600), *range(2048, 2570), *range(3584, 4106)
    for place in headers:
        changed = bytearray(content)
        changed[place] = random.choice([0, 32, 48, 49, 56, 95, 128, 255, random.integers(256)])
        path.write_bytes(changed)
        assert_same(path)


@pytest.mark.parametrize("position", [100, 108, 116, 124, 136, 148, 156, 257, 329, 337, 345])
def test_changed_fields_whose_checksum_is_right(tmp_path: Path, position: int) -> None:
    """Tarfile accepts unusual fields if the checksum is right, so both must read them alike."""
    random = np.random.default_rng(position)
    letters = [b"\0", b" ", b"0", b"7", b"8", b"-", b"_", b"x", b"g", b"L", b"\x80", b"\xff"]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "first.jpg", 10)
        add(tar, "a.jpg", 600, mtime=1.5)
        add(tar, "b.jpg", 600)
    content = path.read_bytes()
    for header in (1024, 2048, 3584):
        for _ in range(60):
            changed = bytearray(content)
            for place in random.integers(position, position + 12, 3):
                changed[header + place] = letters[random.integers(len(letters))][0]
            set_checksum(changed, header)
            path.write_bytes(changed)
            assert_same(path)


def set_checksum(content: bytearray, header: int) -> None:
    content[header + 148 : header + 156] = b" " * 8
    total = sum(content[header : header + 512])
    content[header + 148 : header + 156] = b"%06o\0 " % total


@pytest.mark.parametrize(
    "record",
    [
        b"20 mtime=1.5\n",
        b"00 mtime=1.5\n",
        b"12 mtime=1.5\n",
        b"13 mtime=1.5\n7 path=x\n",
        b"13 mtime=abc\n",
    ],
)
def test_records_that_look_like_a_time(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "first.jpg", 10)
        add(tar, "a.jpg", 600, mtime=1.5)
        add(tar, "b.jpg", 600)
    content = bytearray(path.read_bytes())
    assert content[1536:1549] == b"13 mtime=1.5\n"
    for size in (13, len(record)):
        content[1536 : 1536 + len(record)] = record
        content[1024 + 124 : 1024 + 136] = b"%011o\0" % size
        set_checksum(content, 1024)
        path.write_bytes(content)
        assert_same(path)


def test_the_short_cut_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_shard(tmp_path / "a.tar")
    plain = []

    def counted(start: int, blocks: bytes) -> Member | None:
        member = members_module.__dict__["_original"](start, blocks)
        plain.append(member)
        return member

    monkeypatch.setitem(members_module.__dict__, "_original", members_module._read_plain)
    monkeypatch.setattr(members_module, "_read_plain", counted)
    found, _, _ = outcome(read_members, path)
    assert [member for member in plain if member] == found[1:]
