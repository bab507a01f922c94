"""Whether float32 is computed in float32: GPUs shorten it to TF32, ten bits of mantissa, if let.

torch lets convolutions be shortened by default, and whoever wants speed lets matrix products too,
for the whole process. Metrics and the distances of codes are small differences of large sums, so
they say here what they need, whatever was set.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import backends

from vqgan_train.system.errors import DeviceError, TokenError


def require_devices(accelerator: str, devices: int | str) -> int:
    """Check that the machine has what was asked for.

    Returns:
        How many devices a node that is: for auto all GPUs, or one process on a CPU.

    Raises:
        DeviceError: it has not.
    """
    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and gpus == 0:
        raise DeviceError(
            "trainer.accelerator=gpu, but torch finds no GPU here"
            f" (torch {torch.__version__}, CUDA build {torch.version.cuda}). "
            "Check nvidia-smi and the driver, or take trainer.accelerator=cpu."
        )
    on_gpus = gpus > 0 and accelerator in ("auto", "gpu")
    if on_gpus and isinstance(devices, int) and devices > gpus:
        raise DeviceError(
            f"trainer.devices={devices}, but torch finds {gpus} GPUs here. Lower it, or "
            "check CUDA_VISIBLE_DEVICES."
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("trainer.accelerator=mps, but this is no Apple GPU. Take auto or cpu.")
    if isinstance(devices, int):
        return devices
    return gpus if on_gpus else 1


def require_precision(accelerator: str, precision: str) -> None:
    """Check that a GPU computes in bf16 itself, if that is asked of it.

    Raises:
        DeviceError: it would only emulate it, slower than fp32.
    """
    if precision != "bf16-mixed" or accelerator not in ("auto", "gpu"):
        return
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError(
            f"trainer.precision=bf16, but {torch.cuda.get_device_name()} has no arithmetic for it. "
            "Take trainer.precision=fp16, or fp32."
        )


def require_gpus(accelerator: str, setting: str) -> None:
    """Check that a setting that only GPUs know is used on them.

    Raises:
        DeviceError: it is not.
    """
    if accelerator in ("auto", "gpu") and torch.cuda.device_count() > 0:
        return
    raise DeviceError(
        f"{setting} needs GPUs (torch's SyncBatchNorm refuses anything else), but "
        f"trainer.accelerator={accelerator} means none here. Set it to false, or train on GPUs."
    )


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
