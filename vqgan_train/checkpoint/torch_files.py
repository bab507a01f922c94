"""Read files of `torch.save`, zip or older, with torch's reader and an unpickler of our own."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from vqgan_train.checkpoint import unpickling
from vqgan_train.checkpoint.unpickling import printable_text

DIRECTORY = 0x10
"""Mark of a folder in a zip archive. torch would return uninitialised memory for such a member."""

MAX_DIRECTORY_BYTES = 2**25
"""Maximum bytes of a zip archive's directory; one of 200,000 weights has 20 million."""

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that makes `torch.load` refuse our unpickler."""


def read_torch_zip(path: Path) -> Any:
    """Read what a file from torch 1.6 or later holds, with `StandIn`s for unknown objects.

    Raises:
        ValueError: the file is hostile, or not of torch. A damaged file may raise any exception.
    """
    try:
        _require_whole(path)
    except BadZipFile as error:
        raise ValueError(
            f"its zip archive is damaged or was cut short ({error}); download or copy it again"
        ) from error
    try:
        members = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError as error:
        raise ValueError("it is a zip archive, but not of torch") from error
    if "constants.pkl" in members:  # torch.load would load it as a program
        raise ValueError("it is a TorchScript archive, which is a program and not a checkpoint")
    return _load(path)


class _BoundedFile(io.FileIO):
    """File for zipfile, which reads the directory at once and makes ten times its bytes of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its zip directory has more than {MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size)


def _require_whole(path: Path) -> None:
    """Check what torch does not: that members are uncompressed files and match their checksums."""
    with _BoundedFile(path) as file, ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(
                    "its zip archive is compressed, which torch's never is. If the checkpoint is "
                    "inside of it, unpack it"
                )
            if member.external_attr & DIRECTORY:
                raise BadZipFile(f"{printable_text(member.filename)} is marked as a folder")
            if member.CRC == 0:  # torch can be told not to compute checksums
                member.CRC = None  # type: ignore[assignment]  # zipfile then skips the check
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its zip archive claims more bytes than the file holds")
        damaged = archive.testzip()
        if damaged is not None:
            raise BadZipFile(f"{printable_text(damaged)} does not match its checksum")


def read_torch_legacy(path: Path) -> Any:
    """Read what a file from before torch 1.6 holds, with `StandIn`s for unknown objects.

    Raises:
        ValueError: the file is hostile, or not of torch. A damaged file may raise any exception.
    """
    if tarfile.is_tarfile(path):  # torch.load would unpack it to a temporary folder
        raise ValueError("it is a tar archive. Unpack it, and give the checkpoint inside")
    return _load(path)


def _load(path: Path) -> Any:
    if os.environ.get(FORCED, "").lower() in ("1", "y", "yes", "true"):
        raise ValueError(f"the environment variable {FORCED} is set; unset it to read this file")
    # The file is opened here, because torch.load would guess the format from a path's suffix.
    with path.open("rb") as file:
        return torch.load(
            file, map_location="cpu", pickle_module=unpickling, weights_only=False, mmap=False
        )
