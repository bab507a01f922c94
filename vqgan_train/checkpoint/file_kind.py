"""Recognise checkpoint formats by a file's first bytes, because its name may be wrong."""

from enum import Enum, auto
from pathlib import Path

HEAD_BYTES = 4096
SAFETENSORS_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 2**24
"""Maximum bytes of a safetensors header, of which the library makes 16 times as many in memory."""

LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
"""End of torch's pickled magic number, the first pickle in files from before torch 1.6."""

LEGACY_MAGIC_WITHIN = 32

PNG = b"\x89PNG"
"""Begins with a byte that may also begin a Flax checkpoint."""


class FileKind(Enum):
    """Format of a checkpoint file."""

    TORCH_ZIP = auto()
    TORCH_LEGACY = auto()
    SAFETENSORS = auto()
    FLAX_MSGPACK = auto()


_OTHER_FILES = {
    (b"<!doctype html", b"<html", b"<head", b"<body"): (
        "it is an HTML page. It was probably downloaded from an address that shows a page (a "
        "login, a warning, an error) instead of the file; open the address in a browser"
    ),
    (b"<",): "it is an XML page, as servers send to refuse a download; check address and access",
    (b"version https://git-lfs",): (
        "it is a Git LFS pointer, not the checkpoint; fetch the checkpoint by `git lfs pull`"
    ),
    (b"{", b"["): "it is JSON text: a config, an index of files to join, or a server's refusal",
    (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd"): (
        "it is a compressed archive. Unpack it, and give the checkpoint inside"
    ),
    (PNG.lower(), b"\xff\xd8\xff", b"gif8"): "it is an image, not a checkpoint",
    (b"\x80",): "it is a pickle, but not one that torch writes",
}
"""Descriptions of files that users may take for a checkpoint, by first bytes in lower case."""


def file_kind(path: Path) -> FileKind:
    """Return the format of a checkpoint file.

    Raises:
        ValueError: the file is no checkpoint; the message says what it is and what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return FileKind.TORCH_ZIP
    if head.startswith(b"\x80") and LEGACY_MAGIC in head[:LEGACY_MAGIC_WITHIN]:
        return FileKind.TORCH_LEGACY
    if head[4:9] == b"\0\0\0\0{":
        _require_whole_header(head, path.stat().st_size)
        return FileKind.SAFETENSORS
    begins_a_map = head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))
    if begins_a_map and not head.startswith(PNG):
        return FileKind.FLAX_MSGPACK
    raise ValueError(_description(head))


def _require_whole_header(head: bytes, size: int) -> None:
    length = int.from_bytes(head[:SAFETENSORS_LENGTH_BYTES], "little")
    if SAFETENSORS_LENGTH_BYTES + length > size:
        raise ValueError("it is a safetensors file that was cut short; download or copy it again")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its safetensors header has more than {MAX_HEADER_BYTES:,} bytes")


def _description(head: bytes) -> str:
    """Describe a file that has none of the formats of `FileKind`."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginnings, description in _OTHER_FILES.items():
        if text.startswith(beginnings):
            return description
    if not head.strip(b"\0"):
        return "it is empty or starts with zeros. Its download or copy failed; repeat it"
    if head[257:262] == b"ustar":
        return "it is a tar archive. Unpack it, and give the checkpoint inside"
    return f"it starts with the bytes {head[:12]!r}, which is no checkpoint format"
