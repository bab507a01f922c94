"""Counts the arithmetic of a training step, and measures how fast a device multiplies matrices."""

import time
from typing import Any

import torch
from steps import tf32_allowed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MATRIX_SIDES = {"cpu": 2048, "cuda": 8192}


class Operations(TorchDispatchMode):
    """Counts FLOP of convolutions, matrix products and attention with torch's formulas.

    torch's FlopCounterMode cannot be used: it also tracks modules, which fails when autograd.grad
    is called inside a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.count += flop_registry[func.overloadpacket](
                *args, **(kwargs or {}), out_val=result
            )
        return result


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Return the FLOP/s of a product of large square matrices: the best of five after a warm-up."""
    side = MATRIX_SIDES[device]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        started_at = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - started_at)
    return 2 * side**3 / min(seconds[1:])


def matrix_rates(device: str) -> dict[str, float]:
    """Return the FLOP/s of each precision that the compared steps use on this device."""
    rates = {
        "fp32": matrix_rate(torch.float32, device),
        "bf16": matrix_rate(torch.bfloat16, device),
    }
    if device == "cuda":
        with tf32_allowed():
            rates["tf32"] = matrix_rate(torch.float32, device)
    return rates
