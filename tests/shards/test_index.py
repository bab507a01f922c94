import bz2
import gzip
import io
import logging
import lzma
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import image_samples, read_with_webdataset, write_shard

from vqgan_train.images.sample import image_bytes
from vqgan_train.shards import index as index_module
from vqgan_train.shards.index import ShardIndex, index_shard, index_shards
from vqgan_train.shards.tar import MAX_PADDING_BYTES
from vqgan_train.system.errors import ShardError

END_MARKER_BYTES = 10_240
FIELDS = ("jpg", "txt", "json")


def write_tar(
    path: Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_names(path: Path, *names: str, tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar whose members hold their own names."""
    return write_tar(path, [(name, name.encode()) for name in names], tar_format)


def read_all(index: ShardIndex) -> list[dict[str, Any]]:
    """Read every sample's key and fields, without the URL of the shard."""
    samples = (index.read(place) for place in range(len(index.starts)))
    return [{k: v for k, v in sample.items() if k != "__url__"} for sample in samples]


def index_or_error(path: Path) -> ShardIndex | ShardError:
    try:
        return index_shard(path)
    except ShardError as error:
        return error


def same_index(found: ShardIndex, expected: ShardIndex) -> bool:
    return (
        np.array_equal(found.starts, expected.starts)
        and np.array_equal(found.ends, expected.ends)
        and (found.path, found.num_bytes, found.without_image, found.problem)
        == (expected.path, expected.num_bytes, expected.without_image, expected.problem)
    )


def refuse(*_arguments: Any) -> Any:
    raise AssertionError("the tar was read")


def test_samples_of_a_webdataset_writer_are_read_byte_for_byte(tmp_path: Path) -> None:
    samples = image_samples(5)
    index = index_shard(write_shard(tmp_path / "a.tar", samples))
    assert read_all(index) == samples
    assert (index.without_image, index.problem) == (0, "")


def test_ranges_are_blocks_one_after_the_other(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(4))
    index = index_shard(path)
    assert index.starts[0] == 0
    assert index.starts[1:].tolist() == index.ends[:-1].tolist()
    assert not np.any(index.ends % 512)
    assert path.read_bytes()[index.ends[-1] :].strip(b"\0") == b""
    assert index.starts.dtype == index.ends.dtype == np.int64


def test_real_photos_are_what_webdataset_reads(photo_shards: list[Path]) -> None:
    for path in photo_shards:
        index = index_shard(path)
        assert (index.problem, index.without_image) == ("", 0)
        assert read_all(index) == read_with_webdataset(path)


def test_the_key_ends_at_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    path = write_names(
        tmp_path / "a.tar",
        "v1.0/photo.final.json",  # a dot in a folder is none
        "v1.0/photo.jpg",
        "./b.JPG",
        "./b.Txt",
        "deep/er/c.jpeg",
        "d.v1.jpg",  # no image by WebDataset's rule: its field is v1.jpg
        "d.png",
    )
    samples = read_all(index_shard(path))
    assert [sample["__key__"] for sample in samples] == ["v1.0/photo", "./b", "deep/er/c", "d"]
    assert [sorted(sample)[1:] for sample in samples] == [
        ["final.json", "jpg"],
        ["jpg", "txt"],
        ["jpeg"],
        ["png", "v1.jpg"],
    ]
    assert samples == read_with_webdataset(path)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_belong_to_their_sample(tmp_path: Path, tar_format: int) -> None:
    long = "folder/" * 30 + "x" * 120
    names = ["a.jpg", f"{long}.jpg", f"{long}.txt", "ä.jpg", "b.jpg"]
    index = index_shard(write_names(tmp_path / "a.tar", *names, tar_format=tar_format))
    samples = read_all(index)
    assert [sample["__key__"] for sample in samples] == ["a", long, "ä", "b"]
    assert samples[1] == {
        "__key__": long,
        "jpg": f"{long}.jpg".encode(),
        "txt": f"{long}.txt".encode(),
    }
    assert index.ends[1] - index.starts[1] > 4 * 512, "the headers of long names belong to it"


def test_other_members_are_read_past(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("folder/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        for member in (folder, link):
            tar.addfile(member)
        for name in ("__meta__/x.jpg", "a.jpg", "README", ".hidden.jpg", "._a.jpg", "a.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    index = index_shard(path)
    assert read_all(index) == [{"__key__": "a", "jpg": b"a.jpg", "txt": b"a.txt"}]
    assert read_all(index) == read_with_webdataset(path)


def test_samples_without_image_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_names(
        tmp_path / "a.tar", "a.txt", "b.jpg", "c.json", "c.txt", "d.jpg", "e.mp4", "e.jpg.txt"
    )
    index = index_shard(path)
    assert [sample["__key__"] for sample in read_all(index)] == ["b", "d"]
    assert (index.without_image, index.problem) == (3, "")
    index_shards([path])
    assert "3 samples of 1 shards" in caplog.text
    assert str(path) in caplog.text


def test_several_images_are_one_sample(tmp_path: Path) -> None:
    path = write_names(tmp_path / "a.tar", "a.png", "a.jpg", "a.seg.png", "b.jpg")
    assert [sorted(sample) for sample in read_all(index_shard(path))] == [
        ["__key__", "jpg", "png", "seg.png"],
        ["__key__", "jpg"],
    ]


def test_two_samples_of_one_key_are_two(tmp_path: Path) -> None:
    """WebDataset would raise on the first repeated field."""
    members = [("a.jpg", b"1"), ("a.txt", b"2"), ("a.JPG", b"3"), ("b.jpg", b"4"), ("a.jpg", b"5")]
    samples = read_all(index_shard(write_tar(tmp_path / "a.tar", members)))
    assert samples == [
        {"__key__": "a", "jpg": b"1", "txt": b"2"},
        {"__key__": "a", "jpg": b"3"},
        {"__key__": "b", "jpg": b"4"},
        {"__key__": "a", "jpg": b"5"},
    ]


def test_a_shard_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_names(tmp_path / "captions.tar", "a.txt", "b.json")
    with pytest.raises(ShardError, match=r"captions\.tar .*no member ends with \.jpg"):
        index_shard(path)


def test_cut_anywhere_a_shard_gives_whole_samples_or_an_error(tmp_path: Path) -> None:
    members = [(f"{key}.{field}", b"x" * 20) for key in "abc" for field in ("jpg", "txt")]
    path = write_tar(tmp_path / "a.tar", members)
    whole = index_shard(path)
    assert whole.ends.tolist() == [2048, 4096, 6144]
    for size in range(path.stat().st_size, -1, -1):
        os.truncate(path, size)
        # A sample is whole when the next one's header, or a zero block, stands behind it.
        kept = sum(size >= end + 512 for end in whole.ends)
        index = index_or_error(path)
        if isinstance(index, ShardError):
            assert kept == 0, size
            assert str(path) in str(index), size
            continue
        assert index.starts.tolist() == whole.starts[:kept].tolist(), size
        assert index.ends.tolist() == whole.ends[:kept].tolist(), size
        assert bool(index.problem) == (kept < 3), size


def test_a_missing_end_marker_costs_the_last_sample_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg")
    os.truncate(path, 2048)
    assert index_shard(path).problem.startswith("cut off: the end marker is missing")
    assert [sample["__key__"] for sample in read_all(index_shard(path))] == ["a"]
    index_shards([path])
    assert f"{path}: cut off" in caplog.text


@pytest.mark.parametrize("position", [0, 148, 257])
def test_a_broken_header_costs_what_follows_and_the_sample_before(
    tmp_path: Path, position: int
) -> None:
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg", "b.txt", "c.jpg", "d.jpg")
    content = bytearray(path.read_bytes())
    content[3 * 1024 + position] ^= 0xFF  # in the header of c.jpg
    path.write_bytes(content)
    index = index_shard(path)
    assert [sample["__key__"] for sample in read_all(index)] == ["a"]
    assert index.problem.startswith("damaged at byte 3072")


def test_what_follows_an_end_marker_is_told(tmp_path: Path) -> None:
    first = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg")
    second = write_names(tmp_path / "b.tar", "c.jpg")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    index = index_shard(joined)
    assert [sample["__key__"] for sample in read_all(index)] == ["a", "b"]
    assert index.problem.startswith("has data after its end marker at byte 2048")


def test_a_hole_of_zeros_is_no_end(tmp_path: Path) -> None:
    """A download may reserve its full length first, and then break off."""
    path = write_names(tmp_path / "a.tar", "a.jpg")
    os.truncate(path, 20 * 2**20)
    assert "after its end marker" in index_shard(path).problem
    os.truncate(path, 1024 + END_MARKER_BYTES)
    assert index_shard(path).problem == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 10_240,
        b"<!DOCTYPE html><html>not found</html>",
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["empty", "zeros", "html", "noise"],
)
def test_what_is_no_tar_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "00042.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"00042\.tar holds no sample with an image"):
        index_shard(path)


def test_dead_shards_stay_in_the_list_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write_shard(tmp_path / "good.tar", image_samples(3))
    dead = [tmp_path / f"{name}.tar" for name in ("empty", "captions", "html", "gone")]
    dead[0].touch()
    write_names(dead[1], "a.txt")
    dead[2].write_bytes(b"<html>404</html>" * 99)
    shards = index_shards([dead[0], good, *dead[1:]])
    assert [shard.num_samples for shard in shards] == [0, 3, 0, 0, 0]
    logged = caplog.text.split("dead shard: ")[1:]
    for path, line in zip(dead, logged, strict=True):
        assert line.count(str(path)) == 1
    with pytest.raises(ShardError, match=r"None of 4 shards .*empty\.tar holds no sample"):
        index_shards(dead)


def test_sparse_members_are_read_as_they_were(tmp_path: Path) -> None:
    """As `tar -S` writes them: a file whose blocks of zeros are left out."""
    content = b"begin" + bytes(2**16) + b"end"
    pax = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "b.npy",
        "GNU.sparse.size": str(len(content)), "GNU.sparse.map": f"0,5,{len(content) - 3},3",
    }  # fmt: skip
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, stored, headers in (
            ("a.jpg", b"a", {}), ("b.jpg", b"b", {}), ("GNUSparse/b.npy", b"beginend", pax),
            ("b.txt", b"t", {}), ("c.jpg", b"c", {}),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(stored), headers
            tar.addfile(member, io.BytesIO(stored))
    index = index_shard(path)
    assert index.problem == ""
    assert read_all(index) == [
        {"__key__": "a", "jpg": b"a"},
        {"__key__": "b", "jpg": b"b", "npy": content, "txt": b"t"},
        {"__key__": "c", "jpg": b"c"},
    ]


@pytest.mark.parametrize(
    ("compress", "program"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
def test_compressed_shards_are_refused_with_a_command_that_helps(
    tmp_path: Path, compress: Callable[[bytes], bytes], program: str
) -> None:
    """SA-1B's shards are gzip with the name of a tar."""
    path = write_names(tmp_path / "03.tar", "a.jpg")
    whole = path.read_bytes()
    path.write_bytes(compress(whole))
    with pytest.raises(ShardError, match=f"03.tar is compressed by {program}") as raised:
        index_shard(path)
    command = str(raised.value).partition("Unpack it: ")[2].partition(" (an address")[0]
    if shutil.which(program):
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "03-unpacked.tar").read_bytes() == whole


def test_what_a_mac_adds_belongs_to_no_sample(tmp_path: Path) -> None:
    """`._x.jpg` beside x.jpg would divide an image from its caption."""
    names = (
        "d/._1.jpg", "d/1.jpg", "d/._1.txt", "d/1.txt", "__MACOSX/d/2.jpg", "d/.DS_Store",
        "d/2.jpg",
    )  # fmt: skip
    samples = read_all(index_shard(write_names(tmp_path / "a.tar", *names)))
    assert samples == [
        {"__key__": "d/1", "jpg": b"d/1.jpg", "txt": b"d/1.txt"},
        {"__key__": "d/2", "jpg": b"d/2.jpg"},
    ]


def test_links_are_told(tmp_path: Path) -> None:
    """Tar writes the second name of a file as a hard link: WebDataset drops it."""
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.txt")
    link = tarfile.TarInfo("c.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
    with tarfile.open(path, "a") as tar:
        tar.addfile(link)
    index = index_shard(path)
    assert index.problem.startswith("1 of its files are links, which are not followed.")
    assert index.num_samples == 1


def test_samples_with_several_images_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or a model trains on masks because g is before j."""
    names = "a.gif", "a.jpg", "b.0.image.jpg", "b.1.image.jpg", "c.jpg", "d.0.image.jpg"
    path = write_names(tmp_path / "a.tar", *names)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        (index,) = index_shards([path])
        assert (index.num_samples, index.several_images) == (4, 2)
        assert "2 samples of 1 shards have several images" in caplog.text
    samples = read_all(index)
    assert [image_bytes(sample) for sample in samples] == [
        b"a.gif", b"b.0.image.jpg", b"c.jpg", b"d.0.image.jpg",
    ]  # fmt: skip
    assert image_bytes(samples[0], "jpg") == b"a.jpg"
    assert image_bytes(samples[1], "1.image.jpg") == b"b.1.image.jpg"
    with pytest.raises(LookupError, match=r"no field jpg \(image_field\), but 0"):
        image_bytes(samples[3], "jpg")


def test_an_index_of_an_earlier_version_is_used_if_it_left_nothing_out(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, others in (("a.tar", ()), ("b.tar", ("b.txt",))):
        index_shards([write_names(tmp_path / name, "a.jpg", *others)])
    for file in (cache / "index").iterdir():
        with np.load(file) as stored:
            old = {key: stored[key] for key in stored.files if key != "several_images"}
        np.savez(file, **old)
    indexed: list[Path] = []
    index_anew = index_module.index_shard
    monkeypatch.setattr(
        index_module, "index_shard", lambda path: indexed.append(path) or index_anew(path)
    )
    index_shards([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert indexed == [tmp_path / "b.tar"]


def test_a_sparse_member_is_damage(tmp_path: Path) -> None:
    """A header of 512 bytes claims 4 TB of zeros."""
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg")
    member = tarfile.TarInfo("c.jpg")
    member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**42)}
    with tarfile.open(path, "a") as tar:
        tar.addfile(member)
    index = index_shard(path)
    assert index.problem.startswith("damaged ('c.jpg' is a sparse file of 4398046511104 bytes)")
    assert index.num_samples == 1  # the damage might go through the sample before it


def test_headers_without_end_are_damage(tmp_path: Path) -> None:
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg")
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 5
    start = int(index_shard(path).ends[-1])
    block = member.tobuf(tarfile.GNU_FORMAT) + b"c.jpg".ljust(512, b"\0")
    path.write_bytes(path.read_bytes()[:start] + block * 5000)
    index = index_shard(path)
    assert (index.num_samples, index.problem[:8]) == (1, "damaged ")


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(ShardError, match=r"folder\.tar cannot be read"):
        index_shard(tmp_path / "folder.tar")


@pytest.mark.parametrize(
    ("size", "kept"),
    [(-512, "a"), (-1, "a"), (2**63 - 1024, "ab"), (2**80, "ab")],
    ids=["back", "minus", "far", "huge"],
)
def test_an_impossible_size_is_damage(tmp_path: Path, size: int, kept: str) -> None:
    """For a negative size, tarfile seeks back in an endless loop; for a huge one, seeking fails."""
    path = write_names(tmp_path / "a.tar", "a.jpg", "b.jpg", "c.jpg")
    content = bytearray(path.read_bytes())
    header = content[2048:2560]
    sign = 0xFF if size < 0 else 0x80
    header[124:136] = bytes([sign]) + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[2048:2560] = header
    path.write_bytes(content)
    index = index_shard(path)
    assert [sample["__key__"] for sample in read_all(index)] == list(kept)
    assert index.problem.startswith("damaged (")


def test_single_changed_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    long = "x" * 120
    path = write_names(tmp_path / "a.tar", "a.jpg", f"{long}.jpg", "c.jpg")
    content = path.read_bytes()[:6144]
    random = np.random.default_rng(0)
    for _ in range(1000):
        changed = bytearray(content)
        changed[random.integers(len(changed))] = random.choice([0, 0xFF, random.integers(256)])
        path.write_bytes(changed)
        index = index_or_error(path)
        if isinstance(index, ShardError):
            assert str(path) in str(index)
        else:
            read_all(index)


def test_the_second_time_the_tar_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        write_shard(tmp_path / "a.tar", image_samples(3)),
        write_names(tmp_path / "b.tar", "a.txt", "b.jpg", "c.jpg"),
    ]
    os.truncate(paths[1], 3072)
    first = index_shards(paths)
    messages = caplog.messages
    assert len(messages) == 2  # b.tar is cut off, and has a sample without image
    caplog.clear()
    monkeypatch.setattr(index_module, "index_shard", refuse)
    monkeypatch.setattr(index_module, "cache_lock", refuse)  # another process may index
    second = index_shards(paths)
    assert all(map(same_index, second, first))
    assert caplog.messages == messages


def test_a_changed_shard_is_indexed_again(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(3))
    index_shards([path])
    write_shard(path, image_samples(5))
    assert len(index_shards([path])[0].starts) == 5
    stamp = write_names(path, "a.jpg", "b.txt").stat()
    index_shards([path])
    write_names(path, "a.txt", "b.jpg")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert path.stat().st_size == stamp.st_size
    assert [sample["__key__"] for sample in read_all(index_shards([path])[0])] == ["b"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"noise" * 100,
        lambda content: content[: len(content) // 2],
        lambda content: content[:100] + b"\xff" * 20 + content[120:],
    ],
    ids=["empty", "noise", "cut", "changed"],
)
def test_a_broken_index_is_made_again(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(3))
    (expected,) = index_shards([path])
    (file,) = (cache / "index").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert same_index(index_shards([path])[0], expected)
    assert f"The index {file} is unreadable" in caplog.text
    caplog.clear()
    assert same_index(index_shards([path])[0], expected)
    assert not caplog.text
    assert list((cache / "index").iterdir()) == [file]


def test_an_index_that_lacks_something_is_made_again(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_shard(tmp_path / "a.tar", image_samples(3))
    (expected,) = index_shards([path])
    (file,) = (cache / "index").iterdir()
    with file.open("wb") as stored:
        np.savez(stored, starts=expected.starts)
    assert same_index(index_shards([path])[0], expected)
    assert "is unreadable" in caplog.text


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = (write_shard(tmp_path / name, image_samples(3)) for name in ("a.tar", "b.tar"))
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    index, _ = index_shards([path, other])
    assert same_index(index, index_shard(path))
    assert caplog.text.count(f"Indices of shards cannot be kept in {cache}/index: Not a dir") == 1


def test_shards_of_one_name_have_indices_of_their_own(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "000.tar" for folder in ("cc3m", "yfcc")]
    for path, names in zip(paths, (("a.jpg", "b.txt"), ("a.txt", "b.jpg")), strict=True):
        path.parent.mkdir()
        write_names(path, *names)
        os.utime(path, (0, 0))
    for _ in range(2):
        keys = [read_all(index)[0]["__key__"] for index in index_shards(paths)]
        assert keys == ["a", "b"]


def test_progress_is_shown_for_long_work_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    paths = [write_names(tmp_path / f"{number}.tar", "a.jpg") for number in range(20)]
    index_shards(paths)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(index_module, "BAR_DELAY_SECONDS", 0)
    index_shards(paths)
    assert "indexing shards: 100%" in capsys.readouterr().err


def test_memory_does_not_grow_with_names(tmp_path: Path) -> None:
    """Memory matters because a shard may hold a million samples."""
    path = write_names(
        tmp_path / "a.tar", *[f"{n}.{field}" for n in range(3000) for field in FIELDS]
    )
    index_shard(path)
    tracemalloc.start()
    index_shard(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - MAX_PADDING_BYTES < 3000 * 100
