"""Files of torch before 1.6: pickles one after the other, then the bytes of each storage."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqgan_train.checkpoint.errors import shown
from vqgan_train.checkpoint.tensors import Storage, Tensors, storage_of
from vqgan_train.checkpoint.unpickling import unpickle
from vqgan_train.checkpoint.weights import with_weights

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_PICKLE_BYTES = 16 * 2**20
LENGTH_BYTES = 8


def read_torch_legacy(path: Path) -> dict[str, Any]:
    """Read the weights of a file, and what lies beside them as plain values and stand-ins.

    Raises:
        ValueError: it is damaged, or not what torch wrote.
    """
    storages: dict[str, Storage] = {}

    def remember(persistent_id: Any) -> Storage:
        storage = storage_of(persistent_id)
        storages.setdefault(storage.key, storage)
        return storage

    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if unpickle(head, remember) != MAGIC_NUMBER or unpickle(head, remember) != PROTOCOL:
            raise ValueError("it is a pickle, but not of torch")
        unpickle(head, remember)  # byte order and sizes of the machine, which torch ignores too
        content = unpickle(head, remember)
        keys = unpickle(head, remember)
        positions = _positions(file, head.tell(), keys, storages)

        def read(storage: Storage) -> Tensor:
            return _read_bytes(file, positions[storage.key], storage)

        return with_weights(content, Tensors(read))


def _positions(
    file: io.BufferedReader, position: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, int]:
    """Where each storage's bytes start: they follow each other in the order of `keys`."""
    if not isinstance(keys, list) or set(keys) != storages.keys() or len(keys) != len(storages):
        raise ValueError("its list of storages is not that of its pickle")
    end = file.seek(0, io.SEEK_END)
    positions = {}
    for key in keys:
        storage = storages[key]
        file.seek(position)
        if int.from_bytes(file.read(LENGTH_BYTES), "little") != storage.total:
            raise ValueError(f"its storage {shown(key)} is not of the size it claims, or cut short")
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
