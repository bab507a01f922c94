"""Dtypes of all blocks in mixed precision, on fake tensors of a GPU and of the CPU.

Fake tensors have shapes, dtypes and devices, but no data. An operation that needs a number on the
host, or tensors of two devices, raises an error.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from tiny_runs import compose_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from vqgan_train.losses.perceptual import LPIPS, _unit_length
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.models.layers import Norm


def to_fake(network: nn.Module, device: str) -> None:
    """Replace all weights, which are on the meta device, by fake ones; keep their layout."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty_strided(old.shape, old.stride(), device=device)
                    is_weight = isinstance(old, nn.Parameter)
                    tensors[name] = nn.Parameter(new) if is_weight else new


def outputs_of_blocks(device: str) -> dict[str, list[tuple[str, torch.dtype]]]:
    """Run all networks of f16-16384 in bf16: device and dtypes of what each block returns."""
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
            reconstruction = vqgan(images).reconstruction
            discriminator(reconstruction)
            lpips(images, reconstruction)
        finally:
            torch.set_autocast_enabled(device, False)
    return seen


def test_a_gpu_computes_each_block_in_the_dtype_that_was_measured_on_the_cpu() -> None:
    cuda, cpu = outputs_of_blocks("cuda"), outputs_of_blocks("cpu")
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
