"""Memory for time: activations that are computed again on the way back (Chen et al. 2016)."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from vqgan_train.models.layers import AttentionBlock, ResidualBlock


def recompute_activations(network: nn.Module) -> None:
    """Make each residual and attention block keep its input only.

    Its forward pass runs once more in the backward pass, with the same random numbers, so the
    gradients are the same to the last bit. Names and weights stay as they are.

    Args:
        network: what holds the blocks, at any depth; changed in place.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock | AttentionBlock):
            again = partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = again  # type: ignore[method-assign]
