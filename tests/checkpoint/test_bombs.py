"""Files that would exhaust memory or take hours are refused early."""

import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import torch
from checkpoint.pickles import (
    DATA,
    VALUES,
    checkpoint,
    dict_of,
    integer,
    name,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.system.errors import CheckpointError

MEGABYTE = 2**20
PROCESSOR_SECONDS = 30
"""The worst takes one; what other processes take of the machine is not counted."""


@pytest.fixture(autouse=True)
def little_memory_and_time() -> Iterator[None]:
    """Python's memory must not grow by much, nor torch's, which is seen in that of the process."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest yet
    before, started_at = resident_bytes(), time.process_time()
    yield
    assert resident_bytes(peak=True) - before < 300 * MEGABYTE
    assert time.process_time() - started_at < PROCESSOR_SECONDS


def resident_bytes(*, peak: bool = False) -> int:
    """Return the memory that this process uses, or its maximum so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:" if peak else "VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


DEPTH = 200_000
PICKLES = {
    "a text that is not there": b"\x8d" + struct.pack("<Q", 2**40),
    "a text of negative length": b"\x8d" + struct.pack("<q", -1),
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**62),
    "bytes of protocol 2 that are not there": b"T" + struct.pack("<i", 2**31 - 1),
    "a number that is not there": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "an empty stack": b"0" * 10,
    "no mark": b"t",
    "an unknown memo": b"h\x07",
    "nothing": b"",
    "a tuple of more than there is": b"\x87",
    "an unfinished pair": b"}(Nu",
    "what is neither list nor dict": b"K\x01Na",
    "a call of a number": b"K\x01)R",
    "an object of nothing": b"(o",
}


@pytest.mark.parametrize("program", PICKLES.values(), ids=PICKLES.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickle_that_claims_or_makes_too_much_is_refused(
    tmp_path: Path, program: bytes, write: type
) -> None:
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(other=program)))


HARMLESS = {
    "lists within each other": b"]" * DEPTH + b"a" * (DEPTH - 1),
    "dicts within each other": b"}" + b"N}" * DEPTH + b"s" * DEPTH,
    "tuples within each other": b")" + b"\x85" * DEPTH,
    "calls within each other": b")" + (b"\x85" + b"q\1" + b"0" + name("a", "b") + b"h\1R") * 50_000,
    "a list of itself": b"]q\x01h\x01a",
    "lists of twice the list before": b"]" + b"q\x01h\x01\x86q\x010]h\x01a" * 60,
    "two to the sixty": b"]q\x01" + b"0](h\x01h\x01eq\x01" * 60,
    "a memo at four thousand million": b"Nr\xff\xff\xff\xff",
    "a frame of more than there is": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "omegaconf's containers of themselves": name("omegaconf.dictconfig", "DictConfig")
    + b")\x81q\x01"
    + dict_of({"_content": dict_of({"a": b"h\x01"})})
    + b"b",
}


@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS.keys())
@pytest.mark.parametrize("key", ["other", "hyper_parameters"])
def test_a_strange_pickle_does_not_keep_the_weights_from_being_read(
    tmp_path: Path, program: bytes, key: str
) -> None:
    content = read_checkpoint(write_zip(tmp_path / "a.ckpt", checkpoint(**{key: program})))
    assert torch.equal(content["state_dict"]["weight"], VALUES)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + checkpoint() + b".")
        archive.writestr("archive/data/0", b"\0" * (100 * MEGABYTE))
    assert path.stat().st_size < MEGABYTE
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    size = 4 * MEGABYTE
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + checkpoint() + b".")
        archive.writestr("archive/data/0", b"\0" * size)
        for index in range(1, 1000):
            member = zipfile.ZipInfo(f"archive/data/{index}")
            first = archive.getinfo("archive/data/0")
            member.header_offset, member.CRC = first.header_offset, first.CRC
            member.file_size = member.compress_size = size
            archive.filelist.append(member)
    with pytest.raises(CheckpointError, match="claims more bytes than the file holds"):
        read_checkpoint(path)


def test_a_member_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + checkpoint() + b".")
        archive.writestr("archive/data/0", DATA)
        member = archive.getinfo("archive/data/0")
        member.file_size = member.compress_size = 2**40
    with pytest.raises(CheckpointError, match="claims more bytes than the file holds"):
        read_checkpoint(path)


def test_an_old_file_whose_storage_claims_too_much_is_refused(tmp_path: Path) -> None:
    many = dict_of(
        {"state_dict": dict_of({"a": tensor(storage("0", integer(2**40)), 0, [4], [1])})}
    )
    path = write_legacy(tmp_path / "a.ckpt", many, data=struct.pack("<q", 2**40) + DATA)
    with pytest.raises(CheckpointError, match=r"a\.ckpt is probably damaged"):
        read_checkpoint(path)


MSGPACKS = {
    "an array that is not there": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "a dict that is not there": b"\xdf\xff\xff\xff\xff",
    "bytes that are not there": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "many arrays": b"\x81\xa1a\xdd" + struct.pack(">I", MEGABYTE) + b"\x90" * MEGABYTE,
    "many arrays in arrays": b"\x81\xa1a\x9f" + b"\x9f" * 300 + b"\x90" * MEGABYTE,
    "arrays within each other": b"\x81\xa1a" + b"\x91" * MEGABYTE + b"\x90",
    "dicts within each other": b"\x81\xa1a" * 100_000 + b"\x80",
    "another extension": msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    "an array larger than its bytes": msgpack.packb(
        {"a": msgpack.ExtType(1, msgpack.packb(([10**6, 10**6], "float32", b"1234")))}
    ),
    "an array of negative size": msgpack.packb(
        {"a": msgpack.ExtType(1, msgpack.packb(([-1, -1], "float32", b"1234")))}
    ),
    "an array of objects": msgpack.packb(
        {"a": msgpack.ExtType(1, msgpack.packb(([1], "object", b"12345678")))}
    ),
    "many dimensions": msgpack.packb(
        {"a": msgpack.ExtType(1, msgpack.packb(([1] * 9000, "float32", b"1234")))}
    ),
    "one name twice": b"\x82" + (b"\xa1a" + msgpack.packb(msgpack.ExtType(1, b"")))[:-2] * 2,
}


@pytest.mark.parametrize("content", MSGPACKS.values(), ids=MSGPACKS.keys())
def test_a_msgpack_that_claims_or_makes_too_much_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"flax_model\.msgpack"):
        read_checkpoint(path)


def test_a_msgpack_of_many_small_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb({"a": [[[]] * 5000] * 50}))
    with pytest.raises(CheckpointError, match="more than 10000 lists and dicts"):
        read_checkpoint(path)


def test_safetensors_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entry = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(entry)) + entry + b"\0" * 16)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_checkpoint(path)
