"""Files that would exhaust memory or take hours are refused early."""

import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import torch
from checkpoint.pickles import (
    DATA,
    MAGIC_NUMBER,
    PROTOCOL_1001,
    SYSTEM,
    VALUES,
    WEIGHT,
    call,
    checkpoint,
    dict_of,
    integer,
    name,
    saved_bytes,
    storage,
    tensor,
    text,
    tuple_of,
    write_legacy,
    write_zip,
)
from factories import tiny_vqgan
from safetensors.torch import save_file

from vqgan_train.checkpoint import file_kind, torch_files, unpickling
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
    "a bytearray that is not there": b"\x96" + struct.pack("<Q", 2**29),
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


NESTED = b")" + b"\x85" * 5
DOUBLED = b")" + b"2\x86" * 5
MODULUS = sys.hash_info.modulus
HASHED = {
    "a nested key": b"}" + NESTED + b"Ns",
    "a nested key among others": b"}(K\x01N" + NESTED + b"Nu",
    "a nested key of a dict made at once": b"(" + NESTED + b"Nd",
    "a key of twice the tuple before": b"}" + DOUBLED + b"Ns",
    "a nested entry of a set": b"\x8f(" + NESTED + b"\x90",
    "a nested entry of a frozen set": b"(" + NESTED + b"\x91",
    "a nested key of an OrderedDict": call(
        name("collections", "OrderedDict"), b"](" + NESTED + b"N\x86e"
    ),
    "many tuples as keys": b"}(" + b"".join(integer(i) + b"K\x01\x86N" for i in range(11)) + b"u",
    "many integers of the same hash": b"}"
    + b"".join(integer((i + 1) * MODULUS) + b"Ns" for i in range(11)),
    "many numbers with fractions": b"}"
    + b"".join(b"G" + struct.pack(">d", i + 0.5) + b"Ns" for i in range(11)),
}


@pytest.mark.parametrize("program", HASHED.values(), ids=HASHED.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_what_cannot_be_hashed_in_time_is_refused_before(
    tmp_path: Path, program: bytes, write: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickling, "MAX_STEPS", 10 * unpickling.ODD_KEY)
    with pytest.raises(CheckpointError, match=r"its pickle has (nested|more than 4,000 steps)"):
        read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(other=program)))


MANY = b"(" + b"N" * 1000 + b"t"
LONG_SHAPE = tuple_of(storage("0", integer(4)), b"K\0", b"(" + b"K\1" * 1000 + b"t", b")")
RUNS_OVER = {
    "empty lists": b"]" * 20_000,
    "empty sets": b"\x8f" * 4000,
    "names": b"".join(b"ca\n%d\n0" % i for i in range(200)),
    "objects": name("a", "b") + b"q\1" + b"h\1)\x81" * 3000,
    "tensors": name("torch._utils", "_rebuild_tensor")
    + b"q\1"
    + tuple_of(storage("0", integer(4)), b"K\0", b")", b")")
    + b"q\2"
    + b"h\1h\2R" * 1500,
    "copies of a list": name("collections", "OrderedDict")
    + b"q\1]("
    + b"K\1N\x86" * 1000
    + b"e\x85q\2"
    + b"h\1h\2R" * 9,
    "many arguments": name("a", "b") + b"q\1" + MANY + b"q\2" + b"h\1h\2R" * 20,
    "long shapes": name("torch._tensor", "_rebuild_from_type_v2")
    + b"q\1"
    + tuple_of(name("torch._utils", "_rebuild_tensor"), b"N", LONG_SHAPE, b"N")
    + b"q\2"
    + b"h\1h\2R" * 9,
}
"""Programs that would make more of a few bytes, at any length."""


@pytest.mark.parametrize("program", RUNS_OVER.values(), ids=RUNS_OVER.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickle_of_too_many_steps_is_refused(
    tmp_path: Path, program: bytes, write: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickling, "MAX_STEPS", 18_000)
    with pytest.raises(CheckpointError, match="more than 18,000 steps"):
        read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(other=program)))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_weight_takes_ninety_steps(
    tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_vqgan().state_dict()
    monkeypatch.setattr(unpickling, "MAX_STEPS", 90 * len(weights))
    path = tmp_path / "a.ckpt"
    path.write_bytes(saved_bytes(weights, _use_new_zipfile_serialization=not legacy))
    assert len(read_checkpoint(path)["state_dict"]) == len(weights)


def test_a_pickle_that_takes_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "a.ckpt", checkpoint(other=b"N" + b"2" * 2000))
    read_checkpoint(path)
    monkeypatch.setattr(unpickling, "MAX_SECONDS", -1)
    with pytest.raises(CheckpointError, match="its pickle takes more than -1 s"):
        read_checkpoint(path)


def test_the_state_of_an_ordered_dict_is_not_copied(tmp_path: Path) -> None:
    state = dict_of({str(index): b"N" for index in range(20_000)})
    kept = name("collections", "OrderedDict") + b"q\x010" + state + b"q\x020"
    made = kept + b"(" + b"h\1)Rh\2b" * 1500 + b"l"
    path = write_zip(tmp_path / "a.ckpt", checkpoint(other=made))
    assert len(read_checkpoint(path)["other"]) == 1500


def test_a_tensor_is_neither_unrolled_nor_converted(tmp_path: Path) -> None:
    large = tensor(storage("0", integer(4)), 0, [10**8, 2], [0, 1])
    device = name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")
    for program, message in (
        (call(name("collections", "OrderedDict"), large), "an OrderedDict of a Tensor"),
        (name("a", "b") + large + b"R", "calls with a Tensor"),
        (call(device, large, name("torch", "float64"), text("xla:0"), b"\x89"), "another type"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(write_zip(tmp_path / "a.ckpt", checkpoint(other=program)))


def test_a_member_of_a_zip_is_not_read_once_for_each_spelling(tmp_path: Path) -> None:
    spellings = [f"{index:05b}".replace("0", "a").replace("1", "A") for index in range(32)]
    weights = [tensor(storage(key, integer(4 * MEGABYTE)), 0, [1], [1]) for key in spellings]
    program = checkpoint(other=tuple_of(*weights))
    path = write_zip(tmp_path / "a.ckpt", program, {"0": DATA, "aaaaa": bytes(16 * MEGABYTE)})
    with pytest.raises(CheckpointError, match="a storage whose key is no number"):
        read_checkpoint(path)


def test_a_zip_of_very_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "a.ckpt", checkpoint())
    monkeypatch.setattr(torch_files, "MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(CheckpointError, match="its zip directory has more than 100 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("long", ["ema_" * 20_000, "encoder." + "q." * 5000 + "weight"])
def test_a_name_that_patterns_would_take_long_for_is_refused(tmp_path: Path, long: str) -> None:
    program = dict_of({"state_dict": dict_of({long: WEIGHT, "encoder.conv_in.weight": WEIGHT})})
    with pytest.raises(CheckpointError, match="whose name is longer than 500 characters"):
        read_checkpoint(write_zip(tmp_path / "a.ckpt", program))


LISTS = b"]" + b"q\x010](h\x01h\x01e" * 60
"""Push a list whose text has 2 ** 60 entries."""


@pytest.mark.parametrize("program", [b")" + b"\x85" * DEPTH, b")" + b"2\x86" * 60, LISTS])
@pytest.mark.parametrize("position", [1, 2, 4])
def test_the_pickles_around_the_content_of_an_old_file_are_flat(
    tmp_path: Path, program: bytes, position: int
) -> None:
    pickles = [MAGIC_NUMBER, PROTOCOL_1001, SYSTEM, b"", b"\x80\x02](" + text("0") + b"e."]
    pickles[position] = b"\x80\x02" + (program if position == 1 else b"]" + program + b"a") + b"."
    path = tmp_path / "a.ckpt"
    with pytest.raises(CheckpointError, match="a pickle that torch did not write"):
        read_checkpoint(write_legacy(path, checkpoint(), head=pickles[:3], keys=pickles[4]))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("part", ["storage", "0"])
def test_a_reference_to_a_storage_is_not_printed(tmp_path: Path, part: str, write: type) -> None:
    program = storage("0", integer(4)).replace(text(part), LISTS)
    with pytest.raises(CheckpointError, match="a storage whose key is no text"):
        read_checkpoint(write(tmp_path / "a.ckpt", checkpoint(other=program)))


def test_a_key_that_repeats_a_long_text_is_not_printed(tmp_path: Path) -> None:
    key = text("a" * MEGABYTE) + b"q\x010(" + b"h\x01" * MEGABYTE + b"t"
    with pytest.raises(CheckpointError, match="its first entries are: tuple"):
        read_checkpoint(write_zip(tmp_path / "a.ckpt", b"}" + key + b"Ns"))


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
    "some tuples as keys": b"}(" + integer(1) + b"K\x02\x86NK\x03N" + integer(MODULUS) + b"Nu",
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
    with pytest.raises(CheckpointError, match=r"compressed, .* unpack it"):
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
    with pytest.raises(CheckpointError, match=r"a\.ckpt .* damaged"):
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


def test_extensions_in_extensions_are_not_copied_at_every_level(tmp_path: Path) -> None:
    path, content = tmp_path / "flax_model.msgpack", b"\0" * 4 * MEGABYTE
    for _ in range(100):
        content = msgpack.packb(msgpack.ExtType(1, content))
    path.write_bytes(b"\x81\xa1a" + content)
    with pytest.raises(CheckpointError, match="something other than float arrays"):
        read_checkpoint(path)


def test_a_msgpack_of_many_small_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb({str(i): {str(j): {} for j in range(200)} for i in range(50)}))
    with pytest.raises(CheckpointError, match="more than 10000 dicts and arrays"):
        read_checkpoint(path)


def test_safetensors_with_a_huge_header_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({str(index): torch.zeros(0) for index in range(11)}, path)
    assert len(read_checkpoint(path)["state_dict"]) == 11
    monkeypatch.setattr(file_kind, "MAX_HEADER_BYTES", 500)
    with pytest.raises(CheckpointError, match="safetensors header has more than 500 bytes"):
        read_checkpoint(path)


def test_safetensors_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entry = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(entry)) + entry + b"\0" * 16)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_checkpoint(path)
