"""LPIPS with AlexNet, as papers report it: the package `lpips` with convolutions from elsewhere."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def lpips_with_alexnet(convolutions: Mapping[str, Tensor]) -> nn.Module:
    """Build the network.

    Args:
        convolutions: as `find_alexnet_weights` returns them.

    Returns:
        From two batches (B, 3, H, W) in [-1, 1] to distances (B, 1, 1, 1).
    """
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips asks torchvision in an old way, and draws weights first.
        warnings.simplefilter("ignore")
        network: nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    backbone = [layer for layer in layers if layer.kernel_size != (1, 1)]
    for index, layer in enumerate(backbone):
        layer.load_state_dict(
            {part: convolutions[f"{index}.{part}"] for part in ("weight", "bias")}
        )
    return network.requires_grad_(False).eval()
