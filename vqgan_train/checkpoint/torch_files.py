"""Read files of `torch.save`.

Before torch 1.6 a file is a sequence of pickles, then the bytes of each storage. Since then it is
an uncompressed zip archive of one pickle and one member per storage.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor

from vqgan_train.checkpoint.tensors import Storage, Tensors, storage_of, with_weights
from vqgan_train.checkpoint.unpickling import printable_text, unpickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_LEGACY_PICKLE_BYTES = 16 * 2**20
LENGTH_BYTES = 8


def read_torch_legacy(path: Path) -> dict[str, Any]:
    """Read a file from before torch 1.6; see `with_weights` for the result.

    Raises:
        ValueError: the file is damaged, or torch did not write it.
    """
    storages: dict[str, Storage] = {}

    def remember(persistent_id: Any) -> Storage:
        storage = storage_of(persistent_id)
        storages.setdefault(storage.key, storage)
        return storage

    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_LEGACY_PICKLE_BYTES))
        if unpickle(head, remember) != MAGIC_NUMBER or unpickle(head, remember) != PROTOCOL:
            raise ValueError("it is a pickle, but not of torch")
        unpickle(head, remember)  # the machine's byte order and sizes, which torch ignores too
        content = unpickle(head, remember)
        keys = unpickle(head, remember)
        positions = _positions(file, head.tell(), keys, storages)

        def read(storage: Storage) -> Tensor:
            return _read_bytes(file, positions[storage.key], storage)

        return with_weights(content, Tensors(read))


def _positions(
    file: io.BufferedReader, position: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, int]:
    """Return the offset of each storage's bytes, which follow each other in the order of `keys`."""
    if not isinstance(keys, list) or set(keys) != storages.keys() or len(keys) != len(storages):
        raise ValueError("its list of storages is not that of its pickle")
    end = file.seek(0, io.SEEK_END)
    positions = {}
    for key in keys:
        storage = storages[key]
        file.seek(position)
        if int.from_bytes(file.read(LENGTH_BYTES), "little") != storage.total:
            raise ValueError(
                f"its storage {printable_text(key)} has another size than its pickle says, or the "
                "file was cut short"
            )
        positions[key] = position + LENGTH_BYTES
        position += LENGTH_BYTES + storage.total * storage.dtype.itemsize
        if position > end:
            raise ValueError("it was cut short; download or copy it again")
    return positions


def _read_bytes(file: io.BufferedReader, position: int, storage: Storage) -> Tensor:
    content = torch.empty(storage.total * storage.dtype.itemsize, dtype=torch.uint8)
    file.seek(position)
    if file.readinto(content.numpy().data) != len(content):
        raise ValueError("it was cut short while it was read")
    return content


PICKLE = "data.pkl"
MAX_PICKLE_BYTES = 16 * 2**20
"""Maximum size of the pickle; that of the f16-16384 model takes 0.1 MB, with optimizer 0.2 MB."""

MAX_READ_BYTES = 4 * 2**20
"""Maximum size of one read, because zipfile reads the archive's directory at once and takes twelve
times its size in memory."""

CHUNK_BYTES = 2**20


class _BoundedFile(io.FileIO):
    """File whose `read(n)` raises ValueError if n exceeds `MAX_READ_BYTES`."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_READ_BYTES:
            raise ValueError("its zip directory is huge")
        return super().read(-1 if size is None else size) or b""


def read_torch_zip(path: Path) -> dict[str, Any]:
    """Read a file from torch 1.6 or later; see `with_weights` for the result.

    Raises:
        ValueError: the file is damaged, or torch did not write it.
    """
    try:
        with _BoundedFile(path) as file, ZipFile(file) as archive:
            members = _storable_members(archive, path.stat().st_size)
            root = _root(members)
            pickle = members[f"{root}/{PICKLE}"]
            if pickle.file_size > MAX_PICKLE_BYTES:
                raise ValueError("its pickle is huge")
            content = unpickle(io.BytesIO(archive.read(pickle)), storage_of)
            read = partial(_read_storage, archive, members, root)
            return with_weights(content, Tensors(read))
    except BadZipFile as error:
        raise ValueError(
            f"its zip archive is damaged or was cut short ({error}); download or copy it again"
        ) from error


def _storable_members(archive: ZipFile, file_bytes: int) -> dict[str, ZipInfo]:
    """Return the archive's members by name, all uncompressed and together no larger than it."""
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise ValueError("its zip archive has two members of one name")
    for member in members.values():
        if member.compress_type != ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError("its zip archive is compressed, which torch's never is")
        if member.CRC == 0:  # torch can be told not to compute checksums
            member.CRC = None  # type: ignore[assignment]  # zipfile then skips the check
    if sum(member.file_size for member in members.values()) > file_bytes:
        raise ValueError("its zip archive claims more than the file holds")
    return members


def _root(members: dict[str, ZipInfo]) -> str:
    """Return the archive's single folder, which has the file's first name."""
    roots = [name.removesuffix(f"/{PICKLE}") for name in members if name.endswith(f"/{PICKLE}")]
    if len(roots) != 1 or "/" in roots[0]:
        raise ValueError(f"it is a zip archive, but not of torch: it has no {PICKLE}")
    if f"{roots[0]}/constants.pkl" in members:
        raise ValueError("it is a TorchScript archive, which is a program and not a checkpoint")
    return roots[0]


def _read_storage(
    archive: ZipFile, members: dict[str, ZipInfo], root: str, storage: Storage
) -> Tensor:
    member = members.get(f"{root}/data/{storage.key}")
    size = storage.total * storage.dtype.itemsize
    if member is None or member.file_size != size:
        raise ValueError(
            f"its storage {printable_text(storage.key)} is missing or has another size than its "
            "pickle says"
        )
    content = torch.empty(size, dtype=torch.uint8)
    target = memoryview(content.numpy().data)
    with archive.open(member) as source:
        while target:
            chunk = source.read(min(CHUNK_BYTES, len(target)))
            if not chunk:
                raise ValueError(f"its storage {printable_text(storage.key)} was cut short")
            target[: len(chunk)] = chunk
            target = target[len(chunk) :]
    return content
