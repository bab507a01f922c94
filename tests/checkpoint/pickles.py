"""Pickles written by hand, opcode by opcode, and torch files that contain them."""

import io
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

MAGIC_NUMBER = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL_1001 = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}."


def text(content: str) -> bytes:
    """Push text."""
    encoded = content.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(module: str, attribute: str) -> bytes:
    """Push a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def integer(number: int) -> bytes:
    """Push an integer of up to 255 bytes."""
    content = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tuple_of(*values: bytes) -> bytes:
    """Push a tuple of the values that the given programs push."""
    return b"(" + b"".join(values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Push the result of a function call."""
    return function + tuple_of(*arguments) + b"R"


def dict_of(pairs: Mapping[str, bytes]) -> bytes:
    """Push a dict with text as keys."""
    return b"}(" + b"".join(text(key) + value for key, value in pairs.items()) + b"u"


def storage(key: str, count: bytes, kind: str = "FloatStorage") -> bytes:
    """Push a storage."""
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), count) + b"Q"


def tensor(source: bytes, offset: int, size: Iterable[int], strides: Iterable[int]) -> bytes:
    """Push a tensor, a view of the storage that the program `source` pushes."""
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        source,
        integer(offset),
        tuple_of(*map(integer, size)),
        tuple_of(*map(integer, strides)),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


WEIGHT = tensor(storage("0", integer(4)), 0, [2, 2], [2, 1])
"""Push the only weight of these files, `VALUES`."""

VALUES = torch.arange(4, dtype=torch.float32).view(2, 2)
DATA = VALUES.numpy().tobytes()


def checkpoint(**others: bytes) -> bytes:
    """Make a program for a checkpoint of one weight and the values that the given programs push."""
    return dict_of({**others, "state_dict": dict_of({"weight": WEIGHT})})


def write_zip(path: Path, program: bytes, data: Mapping[str, bytes] | None = None) -> Path:
    """Write a file as torch 1.6 or later does: a pickle, and the bytes of storages by key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        for key, content in (data or {"0": DATA}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(
    path: Path,
    program: bytes,
    *,
    head: Iterable[bytes] = (MAGIC_NUMBER, PROTOCOL_1001, SYSTEM),
    keys: bytes = b"\x80\x02](" + text("0") + b"e.",
    data: bytes = struct.pack("<q", 4) + DATA,
) -> Path:
    """Write what torch before 1.6 did: five pickles, and bytes of storages."""
    # A storage says of which other it is a view: of none, unless the program names one.
    program = re.sub(rb"(?<!t)tQ", b"NtQ", program)
    path.write_bytes(b"".join(head) + b"\x80\x02" + program + b"." + keys + data)
    return path


def saved_bytes(content: object, **options: object) -> bytes:
    """Return the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()
