"""Where to compute, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from vqgan_train.tf32 import tf32_convolutions
from vqgan_train.tokens.errors import TokenError

PRECISIONS = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The type that convolutions are computed in; tf32 is how GPUs shorten float32."""


def choose_device(accelerator: str, local_rank: int) -> torch.device:
    """Take a device of this machine.

    Args:
        accelerator: auto, cpu, gpu or mps. auto: a GPU where there is one.
        local_rank: spreads the processes of a machine over its GPUs.

    Raises:
        TokenError: there is no such device.
    """
    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        raise TokenError(
            f"accelerator=gpu, but torch finds no GPU here (torch {torch.__version__}, CUDA build "
            f"{torch.version.cuda}). Check nvidia-smi and the driver, or take accelerator=cpu."
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise TokenError("accelerator=mps, but this is no Apple GPU. Take auto or cpu.")
    if accelerator == "mps":
        return torch.device("mps")
    if gpus and accelerator != "cpu":
        device = torch.device("cuda", local_rank % gpus)
        torch.cuda.set_device(device)  # else each process has a context on the first one, too
        return device
    return torch.device("cpu")


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision inside of the block; codes are compared in float32 in any case."""
    dtype = PRECISIONS[precision]
    with (
        # torch's own default is to shorten convolutions on a GPU, and to call that float32.
        tf32_convolutions(allowed=precision == "tf32"),
        nullcontext() if dtype is None else torch.autocast(device.type, dtype),
    ):
        yield
