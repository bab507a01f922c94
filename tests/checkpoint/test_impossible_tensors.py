"""Tensors that exceed their storage are refused."""

from pathlib import Path

import pytest
import torch
from checkpoint.pickles import (
    dict_of,
    integer,
    name,
    storage,
    tensor,
    text,
    tuple_of,
    write_legacy,
    write_zip,
)

from vqgan_train.checkpoint.reading import read_checkpoint
from vqgan_train.system.errors import CheckpointError

MEGABYTE = 2**20


def weights(program: bytes) -> bytes:
    return dict_of({"state_dict": dict_of({"weight": program})})


def view(offset: int, size: list[int], strides: list[int]) -> bytes:
    return weights(tensor(storage("0", integer(4)), offset, size, strides))


def view_of_part(start: int, offset: int) -> bytes:
    """One element of a storage that is itself two of four elements, from `start` on."""
    part = tuple_of(text("part"), integer(start), integer(2))
    whole = (text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4))
    return weights(tensor(tuple_of(*whole, part) + b"Q", offset, [1], [1]))


IMPOSSIBLE_TENSORS = {
    "expanded": view(0, [10**6, 10**6], [0, 0]),
    "more elements than there are": view(0, [5], [1]),
    "beyond the end": view(2, [2, 2], [2, 1]),
    "one element beyond the end": view(1, [4], [1]),
    "far beyond the end": view(0, [2], [2**62]),
    "sum that overflows": view(0, [2, 2], [2**62, 2**62]),
    "product that overflows": view(0, [2**32, 2**32], [0, 0]),
    "offset that overflows": view(2**63 - 1, [2], [1]),
    "offset beyond 64 bits": view(2**64, [2], [1]),
    "negative offset": view(-1, [2], [1]),
    "negative stride": view(3, [4], [-1]),
    "negative size": view(0, [-1], [1]),
    "two negative sizes": view(0, [-2, -2], [1, 1]),
    "fewer strides than sizes": view(0, [2, 2], [1]),
    "storage larger than its bytes": weights(tensor(storage("0", integer(10**12)), 0, [4], [1])),
    "storage smaller than its bytes": weights(tensor(storage("0", integer(3)), 0, [3], [1])),
    "negative storage": weights(tensor(storage("0", integer(-4)), 0, [2], [1])),
    "storage of an unknown kind": weights(
        tensor(storage("0", integer(4), "QInt8Storage"), 0, [4], [1])
    ),
    "storage that is not there": weights(tensor(storage("../data.pkl", integer(4)), 0, [4], [1])),
}


@pytest.mark.parametrize("program", IMPOSSIBLE_TENSORS.values(), ids=IMPOSSIBLE_TENSORS.keys())
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_tensor_that_does_not_lie_within_its_bytes_is_refused(
    tmp_path: Path, program: bytes, write: type
) -> None:
    with pytest.raises(CheckpointError, match=r"a\.ckpt (is probably|cannot)"):
        read_checkpoint(write(tmp_path / "a.ckpt", program))


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_view_of_a_part_of_a_storage_is_the_one_that_torch_reads(
    tmp_path: Path, start: int
) -> None:
    path = write_legacy(tmp_path / "a.ckpt", view_of_part(start, 1))
    theirs = torch.load(path, weights_only=True)["state_dict"]["weight"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], theirs)
    assert theirs.tolist() == [start + 1]


def test_many_weights_of_the_same_bytes_are_refused(tmp_path: Path) -> None:
    content = b"\0" * MEGABYTE
    whole = tensor(storage("0", integer(MEGABYTE // 4)), 0, [MEGABYTE // 4], [1])
    first = whole + b"q\x01"
    others = b"".join(text(f"w{index}") + b"h\x01" for index in range(10_000))
    program = dict_of({"state_dict": b"}(" + text("first") + first + others + b"u"})
    with pytest.raises(CheckpointError, match="far more than the file holds"):
        read_checkpoint(write_zip(tmp_path / "a.ckpt", program, {"0": content}))
