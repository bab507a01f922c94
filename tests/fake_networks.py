"""Networks on fake tensors, which have shapes, dtypes and devices, but no data."""

import torch
from torch import nn


def to_fake(network: nn.Module, device: str) -> None:
    """Replace all weights, which are on the meta device, by fake ones; keep their layout.

    Call it inside FakeTensorMode. `device` need not exist.
    """
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty_strided(
                        old.shape, old.stride(), dtype=old.dtype, device=device
                    )
                    is_weight = isinstance(old, nn.Parameter)
                    tensors[name] = nn.Parameter(new, old.requires_grad) if is_weight else new
