"""Dtypes of all blocks in mixed precision, on fake tensors of a GPU and of the CPU.

Fake tensors have shapes, dtypes and devices, but no data. An operation that needs a number on the
host, or tensors of two devices, raises an error.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from fake_networks import to_fake
from tiny_runs import compose_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqgan_train.losses.perceptual import LPIPS, _unit_length
from vqgan_train.models import VQGAN, PatchDiscriminator, layers
from vqgan_train.models.layers import Norm


class WideFeatures(TorchDispatchMode):
    """Notes operations that return float32 features of more than 16 by 16 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            is_wide = isinstance(leaf, Tensor) and leaf.dtype == torch.float32
            if is_wide and leaf.dim() == 4 and leaf.shape[1] > 3 and leaf.shape[2] > 16:
                self.names.add(func._schema.name)
        return result


def run_in_bf16(device: str) -> tuple[dict[str, list[tuple[str, torch.dtype]]], set[str]]:
    """Run all networks of f16-16384 in bf16.

    Returns:
        Device and dtypes of what each block returns; operations of the VQGAN that return float32
        features.
    """
    config = compose_config("model=f16_16384", "model.init_from=null").model
    with torch.device("meta"):
        vqgan = VQGAN(**asdict(config.architecture))
        discriminator = PatchDiscriminator(in_channels=3, **asdict(config.discriminator))
        lpips = LPIPS()
    lpips.is_loaded = True
    networks = nn.ModuleDict({"vqgan": vqgan, "discriminator": discriminator, "lpips": lpips})
    networks.to(memory_format=torch.channels_last)
    seen: dict[str, list[tuple[str, torch.dtype]]] = {}

    def note(name: str, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        seen[name] = [(tensor.device.type, tensor.dtype) for tensor in tensors]

    for name, module in networks.named_modules():
        module.register_forward_hook(partial(note, name))
    with FakeTensorMode():
        to_fake(networks, device)
        images = torch.empty(2, 3, 256, 256, device=device).to(memory_format=torch.channels_last)
        # torch.autocast("cuda") would be off without a GPU.
        torch.set_autocast_dtype(device, torch.bfloat16)
        torch.set_autocast_enabled(device, True)
        try:
            with WideFeatures() as wide:
                reconstruction = vqgan(images).reconstruction
            discriminator(reconstruction)
            lpips(images, reconstruction)
        finally:
            torch.set_autocast_enabled(device, False)
    return seen, wide.names


def test_a_gpu_computes_each_block_in_the_dtype_that_was_measured_on_the_cpu() -> None:
    (cuda, wide_features), (cpu, _) = run_in_bf16("cuda"), run_in_bf16("cpu")
    assert not wide_features
    assert len(cuda) > 150
    assert {device for outputs in cuda.values() for device, _ in outputs} == {"cuda"}
    dtypes = {name: [dtype for _, dtype in outputs] for name, outputs in cuda.items()}
    assert dtypes == {name: [dtype for _, dtype in outputs] for name, outputs in cpu.items()}
    # Whole tensors of features are in half precision; only these results are not.
    wide = {name for name, found in dtypes.items() if torch.float32 in found}
    heads = {f"lpips.heads.{index}" for index in range(5)}
    assert wide == {"vqgan", "vqgan.quantizer", "lpips", *heads}


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_norm_on_a_gpu_returns_what_it_got(layout: torch.memory_format) -> None:
    with torch.device("meta"):
        norm = Norm(64, silu=True)
    with FakeTensorMode():
        to_fake(norm, "cuda")
        features = torch.empty(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16)
        result = norm(features.to(memory_format=layout))
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=layout)


def test_unit_length_is_float32_on_a_gpu() -> None:
    with FakeTensorMode():
        assert (
            _unit_length(torch.empty(1, 4, 2, 2, device="cuda").bfloat16()).dtype == torch.float32
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_equals_torchs_own_pieces(dtype: torch.dtype) -> None:
    norm, features = Norm(64, silu=True), torch.randn(2, 64, 8, 8).to(dtype)
    nn.init.normal_(norm.weight)
    pieces = nn.functional.silu(
        nn.functional.group_norm(features, 32, norm.weight, norm.bias, norm.eps)
    )
    assert torch.equal(norm(features), pieces)


COMPARISON = """
import torch
from torch.nn import functional as F
from vqgan_train.models.fused_norm import group_norm_silu

# Pixels and channels that fill their blocks, and that do not; a mean far from 0.
for shape in ((2, 64, 9, 7), (1, 96, 16, 16), (3, 128, 5, 1)):
    for layout in (torch.channels_last, torch.contiguous_format):
        for silu in (True, False):
            for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 5e-3)):
                x = (torch.randn(shape) * 2 + 7).to(dtype).contiguous(memory_format=layout)
                gradient = torch.randn(shape).to(dtype)
                inputs = (x, torch.randn(shape[1]), torch.randn(shape[1]))
                ours = [tensor.clone().requires_grad_() for tensor in inputs]
                exact = [tensor.double().requires_grad_() for tensor in inputs]
                result = group_norm_silu(*ours, 32, 1e-6, silu)[0]
                assert result.dtype == dtype and result.stride() == x.stride()
                result.backward(gradient)
                expected = F.group_norm(exact[0], 32, *exact[1:], 1e-6)
                expected = F.silu(expected) if silu else expected
                expected.backward(gradient.double())
                pairs = zip((result, *(o.grad for o in ours)), (expected, *(e.grad for e in exact)))
                for found, right in pairs:
                    assert (found.double() - right).norm() < limit * right.norm(), (shape, dtype)
print("equal")
"""


@pytest.mark.slow
def test_the_kernels_compute_group_norm_and_silu_with_their_gradients() -> None:
    """In a process of its own, because Triton decides at its import whether it interprets."""
    pytest.importorskip("triton")
    compare_kernels("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_compute_the_same_on_a_gpu() -> None:
    compare_kernels("cuda")


def compare_kernels(device: str, **variables: str) -> None:
    program = f"import torch; torch.set_default_device({device!r})\n{COMPARISON}"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "equal\n", ran.stderr


def test_a_gpu_without_triton_takes_torchs_own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "works_here", lambda: False)
    with torch.device("meta"):
        norm = Norm(64, silu=True)
    with FakeTensorMode():
        to_fake(norm, "cuda")
        features = torch.empty(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16)
        assert norm(features).dtype == torch.bfloat16
