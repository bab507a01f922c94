"""Choose a device, check what it can do, and set the precision in which it computes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import backends

from vqgan_train.system.errors import UserError


def require_accelerator(accelerator: str, setting: str = "accelerator") -> None:
    """Check that this machine has the kind of device that a setting names.

    Raises:
        UserError: there is no such device.
    """
    if accelerator == "gpu" and torch.cuda.device_count() == 0:
        raise UserError(
            f"{setting}=gpu, but torch finds no GPU here (torch {torch.__version__}, CUDA build "
            f"{torch.version.cuda}). Check nvidia-smi and the driver, or set {setting}=cpu."
        )
    if accelerator == "mps" and not backends.mps.is_available():
        raise UserError(
            f"{setting}=mps, but torch finds no Apple GPU here. Set {setting}=auto or cpu."
        )


def choose_device(accelerator: str, local_rank: int) -> torch.device:
    """Choose the device of this process; a GPU also becomes torch's current device.

    Args:
        accelerator: auto, cpu, gpu or mps. auto takes a GPU if there is one, else the CPU.
        local_rank: rank among the processes of this machine; spreads them over its GPUs.

    Raises:
        UserError: there is no such device.
    """
    require_accelerator(accelerator)
    if accelerator == "mps":
        return torch.device("mps")
    gpus = torch.cuda.device_count()
    if gpus and accelerator != "cpu":
        device = torch.device("cuda", local_rank % gpus)
        # Otherwise each process also takes memory of the first GPU, for a context there.
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def require_devices(accelerator: str, devices: int | str) -> int:
    """Check that this machine has the configured devices per node, for training.

    Returns:
        The number of devices per node. For auto: all GPUs, or 1 without GPUs.

    Raises:
        UserError: there is no such device, or there are fewer GPUs.
    """
    require_accelerator(accelerator, "trainer.accelerator")
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu") else 0
    if not isinstance(devices, int):
        return gpus or 1
    if 0 < gpus < devices:
        raise UserError(
            f"trainer.devices={devices}, but torch finds {gpus} GPU(s) here. Lower "
            "trainer.devices, or check CUDA_VISIBLE_DEVICES."
        )
    return devices


def require_precision(accelerator: str, precision: str) -> None:
    """Check that the GPU supports bf16, if `precision` is bf16-mixed and training uses a GPU.

    Raises:
        UserError: the GPU only emulates bf16, which is slower than fp32.
    """
    if precision != "bf16-mixed" or accelerator not in ("auto", "gpu"):
        return
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"trainer.precision=bf16, but {torch.cuda.get_device_name()} does not support bf16. "
            "Set trainer.precision=fp16 or fp32."
        )


def require_gpus(accelerator: str) -> None:
    """Check that training runs on GPUs, which trainer.sync_batchnorm needs.

    Raises:
        UserError: training would run on another device.
    """
    if accelerator in ("auto", "gpu") and torch.cuda.device_count() > 0:
        return
    raise UserError(
        "trainer.sync_batchnorm=true needs GPUs (torch's SyncBatchNorm refuses anything else), but "
        f"trainer.accelerator={accelerator} uses none here. Set trainer.sync_batchnorm=false, or "
        "train on GPUs."
    )


PRECISIONS = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Autocast dtype of each precision; None: float32, which tf32 rounds inside convolutions."""


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision inside the block; codes are compared in float32 in any case."""
    dtype = PRECISIONS[precision]
    with (
        # torch's default lets GPUs use TF32 for convolutions, and calls that float32.
        tf32_convolutions(allowed=precision == "tf32"),
        nullcontext() if dtype is None else torch.autocast(device.type, dtype),
    ):
        yield


FLOAT32, TF32 = "ieee", "tf32"
"""torch's names of the precisions with 23 and with 10 bits of mantissa."""


@contextmanager
def tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for float32 convolutions inside the block.

    TF32 has 10 bits of mantissa instead of 23. torch allows it for convolutions by default. Metrics
    and distances between codes are small differences of large sums, which TF32 falsifies. Matrix
    products never use TF32 inside the block. All settings are restored at its end.
    """
    cudnn: Any = backends.cudnn  # mypy does not see the attributes that torch gives these modules
    mkldnn: Any = backends.mkldnn
    precisions = {
        cudnn.conv: TF32 if allowed else FLOAT32,
        backends.cuda.matmul: FLOAT32,
        mkldnn.conv: FLOAT32,
        mkldnn.matmul: FLOAT32,
    }
    before = {operation: operation.fp32_precision for operation in precisions}
    legacy = _legacy_settings()
    try:
        # torch has these settings twice, and refuses to read the legacy ones where the two differ.
        if legacy is not None:
            _set_legacy(allowed, "highest")
        for operation, precision in precisions.items():
            operation.fp32_precision = precision
        yield
    finally:
        if legacy is not None:
            _set_legacy(*legacy)
        for operation, precision in before.items():
            operation.fp32_precision = precision


def _legacy_settings() -> tuple[bool, str] | None:
    """Read torch's older settings of convolutions and matrix products.

    None if they contradict the newer ones, so that torch refuses to read them.
    """
    try:
        return backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set_legacy(convolutions: bool, matrix_products: str) -> None:
    backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(matrix_products)
