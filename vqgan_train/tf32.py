"""Whether float32 is computed in float32: GPUs shorten it to TF32, ten bits of mantissa, if let.

torch lets convolutions be shortened by default, and whoever wants speed lets matrix products too,
for the whole process. Metrics and the distances of codes are small differences of large sums, so
they say here what they need, whatever was set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import backends

WHOLE, SHORT = "ieee", "tf32"
"""What torch calls the two."""


@contextmanager
def tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Let GPUs shorten convolutions of float32 inside of the block, or keep them from it.

    Matrix products are whole inside of it in any case. At its end all is as it was.
    """
    cudnn: Any = backends.cudnn  # mypy does not see the attributes that torch gives these modules
    mkldnn: Any = backends.mkldnn
    operations = {
        cudnn.conv: SHORT if allowed else WHOLE,
        backends.cuda.matmul: WHOLE,
        mkldnn.conv: WHOLE,
        mkldnn.matmul: WHOLE,
    }
    before = {operation: operation.fp32_precision for operation in operations}
    older = _older_settings()
    try:
        # torch has these settings twice, and refuses to read the older ones where the two differ.
        if older is not None:
            _set_older(allowed, "highest")
        for operation, precision in operations.items():
            operation.fp32_precision = precision
        yield
    finally:
        if older is not None:
            _set_older(*older)
        for operation, precision in before.items():
            operation.fp32_precision = precision


def _older_settings() -> tuple[bool, str] | None:
    """Convolutions and matrix products; None where somebody has set the newer ones otherwise."""
    try:
        return backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set_older(convolutions: bool, products: str) -> None:
    backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
