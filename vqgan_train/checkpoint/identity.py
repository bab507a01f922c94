"""What tells one checkpoint from another."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits that name a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits that name weights on the CPU, in whatever format they were stored."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().contiguous().numpy().data)
    return digest.hexdigest()
