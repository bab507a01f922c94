"""The original, built from our arguments: taming-transformers-rom1504, as PyPI has it.

Two things stand in the way of importing it:

- `taming.models.vqgan` imports `taming.main`, a training script for a Lightning that is long gone.
  It wants one function of it, so a stub module with that function is put in its place.
- Its LPIPS downloads VGG16 and the linear heads in its constructor. Here it is built empty and
  given the weights that our LPIPS has; its arithmetic is its own.
"""

import contextlib
import io
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from factories import spread_codes
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers


def _instantiate_from_config(config: Mapping[str, Any]) -> nn.Module:
    return config["module"]


_stub = types.ModuleType("taming.main")
_stub.instantiate_from_config = _instantiate_from_config  # type: ignore[attr-defined]
sys.modules["taming.main"] = _stub

with warnings.catch_warnings():
    # It compares strings with `is not`, and imports names that Lightning has deprecated.
    warnings.simplefilter("ignore")
    from taming.models.vqgan import VQModel
    from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
    from taming.modules.losses import lpips as taming_lpips
    from taming.modules.losses import vqperceptual

__all__ = [
    "NLayerDiscriminator",
    "VQModel",
    "as_ours",
    "peer_loss",
    "peer_vqgan",
    "weights_init",
]

# Where VGG16's `features` has its convolutions, between ReLUs and poolings.
VGG16_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_SLICE_ENDS = (4, 9, 16, 23, 30)


def peer_vqgan(
    *,
    channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    attention_resolutions: Sequence[int],
    resolution: int,
    latent_channels: int,
    code_dim: int,
    codebook_size: int,
    in_channels: int = 3,
    out_channels: int = 3,
    dropout: float = 0.0,
    resample_with_convolution: bool = True,
    loss: nn.Module | None = None,
) -> VQModel:
    """Build the original's VQModel from the arguments of our VQGAN, as the seed 0 draws it."""
    architecture = {
        "ch": channels,
        "ch_mult": channel_multipliers,
        "num_res_blocks": num_residual_blocks,
        "attn_resolutions": attention_resolutions,
        "resolution": resolution,
        "in_channels": in_channels,
        "out_ch": out_channels,
        "z_channels": latent_channels,
        "dropout": dropout,
        "resamp_with_conv": resample_with_convolution,
        "double_z": False,
    }
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        model = VQModel(architecture, {"module": nn.Identity()}, codebook_size, code_dim)
        _leave_initial_vectors(model)
        spread_codes(model.quantize.embedding.weight, model.quant_conv.weight)
    if loss is not None:
        model.loss = loss
    return model


def peer_loss(lpips_weights: Mapping[str, Tensor], **arguments: Any) -> nn.Module:
    """Build the original's VQLPIPSWithDiscriminator around LPIPS with the given weights.

    Args:
        lpips_weights: as our LPIPS takes them.
        arguments: the original's own, `disc_start` at least.
    """
    with (
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(io.StringIO()),
        _patched(vqperceptual, "LPIPS", lambda: _peer_lpips(lpips_weights)),
    ):
        torch.manual_seed(1)
        return vqperceptual.VQLPIPSWithDiscriminator(**arguments)


def as_ours(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of the weights under our names that start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _peer_lpips(weights: Mapping[str, Tensor]) -> nn.Module:
    features = make_layers(cfgs["D"])
    empty_vgg16 = types.SimpleNamespace(vgg16=lambda **_: types.SimpleNamespace(features=features))
    with (
        _patched(taming_lpips, "models", empty_vgg16),
        _patched(taming_lpips.LPIPS, "load_from_pretrained", lambda _: None),
    ):
        lpips = taming_lpips.LPIPS()
    renamed = {f"lin{i}.model.1.weight": weights[f"heads.{i}.weight"] for i in range(5)}
    for index, layer in enumerate(VGG16_LAYERS):
        part = 1 + sum(layer >= end for end in VGG16_SLICE_ENDS)
        for kind in ("weight", "bias"):
            renamed[f"net.slice{part}.{layer}.{kind}"] = weights[f"convolutions.{index}.{kind}"]
    scaling = {name: w for name, w in lpips.state_dict().items() if name.startswith("scaling")}
    lpips.load_state_dict({**renamed, **scaling})
    return lpips


def _leave_initial_vectors(model: nn.Module) -> None:
    """Move norms off 1 and biases off 0, where exchanging two of them would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


@contextlib.contextmanager
def _patched(owner: Any, name: str, value: Any) -> Any:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
