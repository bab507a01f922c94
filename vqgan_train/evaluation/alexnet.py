"""LPIPS with AlexNet, as papers report it: the package `lpips` with weights from elsewhere."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def lpips_with_alexnet(weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the network.

    Args:
        weights: as `find_alexnet_weights` returns them.

    Returns:
        From two batches (B, 3, H, W) in [-1, 1] to distances (B, 1, 1, 1).
    """
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips asks torchvision in an old way, and draws weights first.
        warnings.simplefilter("ignore")
        network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    backbone = [layer for layer in layers if layer.kernel_size != (1, 1)]
    for index, layer in enumerate(backbone):
        layer.load_state_dict(
            {part: weights[f"convolutions.{index}.{part}"] for part in ("weight", "bias")}
        )
    for index, head in enumerate(network.lins):
        head.model[-1].load_state_dict({"weight": weights[f"heads.{index}.weight"]})
    built: nn.Module = network.requires_grad_(False).eval()
    return built
