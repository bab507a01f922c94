"""What tells one checkpoint from another."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits that name weights on the CPU, in whatever format they were stored."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().contiguous().numpy().data)
    return digest.hexdigest()
