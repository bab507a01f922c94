"""Read files of `torch.save`, zip or older, with torch's reader and an unpickler of our own."""

import os
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from vqgan_train.checkpoint import unpickling
from vqgan_train.checkpoint.unpickling import StandIn, printable_text

STATE_DICT = "state_dict"

DIRECTORY = 0x10
"""Mark of a folder in a zip archive. torch would return uninitialised memory for such a member."""

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that makes `torch.load` refuse our unpickler."""


def read_torch_zip(path: Path) -> dict[str, Any]:
    """Read a file from torch 1.6 or later; see `_with_weights` for the result.

    Raises:
        ValueError: the file is hostile or no checkpoint. A damaged file may raise any exception.
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


def _require_whole(path: Path) -> None:
    """Check what torch does not: that members are uncompressed files and match their checksums."""
    with ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError("its zip archive is compressed, which torch's never is")
            if member.external_attr & DIRECTORY:
                raise BadZipFile(f"{printable_text(member.filename)} is marked as a folder")
            if member.CRC == 0:  # torch can be told not to compute checksums
                member.CRC = None  # type: ignore[assignment]  # zipfile then skips the check
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its zip archive claims more bytes than the file holds")
        damaged = archive.testzip()
        if damaged is not None:
            raise BadZipFile(f"{printable_text(damaged)} does not match its checksum")


def read_torch_legacy(path: Path) -> dict[str, Any]:
    """Read a file from before torch 1.6; see `_with_weights` for the result.

    Raises:
        ValueError: the file is hostile or no checkpoint. A damaged file may raise any exception.
    """
    if tarfile.is_tarfile(path):  # torch.load would unpack it to a temporary folder
        raise ValueError("it is a tar archive. Unpack it, and give the checkpoint inside")
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    if os.environ.get(FORCED, "").lower() in ("1", "y", "yes", "true"):
        raise ValueError(f"the environment variable {FORCED} is set; unset it to read this file")
    # The file is opened here, because torch.load would guess the format from a path's suffix.
    with path.open("rb") as file:
        content = torch.load(
            file, map_location="cpu", pickle_module=unpickling, weights_only=False, mmap=False
        )
    return _with_weights(content)


def _with_weights(content: Any) -> dict[str, Any]:
    """Return a checkpoint with its weights under `state_dict`, without gradient.

    Without a `state_dict`, all that it holds must be weights. Its other content is unchanged.

    Raises:
        ValueError: there are no weights, or not all of them are plain tensors.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a value of type {_kind(content)}, not a dict of weights")
    weights = content.get(STATE_DICT, content)
    names = ", ".join(printable_text(key) for key in list(content)[:8])
    problem = f"it holds no weights in a state_dict; its first entries are: {names or 'none'}"
    if not isinstance(weights, dict) or not weights or not all(isinstance(n, str) for n in weights):
        raise ValueError(problem)
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or weight.is_quantized:
            if weights is content:
                raise ValueError(problem)
            raise ValueError(
                f"its weight {printable_text(name)} is no plain tensor, but of type {_kind(weight)}"
            )
    made = {name: weight.detach() for name, weight in weights.items()}
    return {STATE_DICT: made} if weights is content else {**content, STATE_DICT: made}


def _kind(value: Any) -> str:
    return printable_text(value.name if isinstance(value, StandIn) else type(value).__name__)
