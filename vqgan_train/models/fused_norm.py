"""GroupNorm and SiLU in one operation that keeps dtype and memory layout, for GPUs with Triton."""

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from vqgan_train.system.errors import first_line

log = logging.getLogger(__name__)

BLOCK_P, BLOCK_C = 128, 64
"""Pixels and channels of one block of the kernels."""


@torch.library.custom_op("vqgan_train::group_norm_silu", mutates_args=())
def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor]:
    """Normalise features (B, C, H, W) of any float dtype, then apply SiLU if `silu`.

    Sums and arithmetic are float32. Two passes over `x`, which alone is kept for the gradient.

    Returns:
        The result, of the dtype and layout of `x`, and the sums for the gradient: (2, B, groups).
    """
    from vqgan_train.models import norm_kernels

    x = _dense(x)
    grid, sizes, blocks = _launch(x, groups)
    sums = x.new_empty(2, grid[2], grid[0], x.shape[1], dtype=torch.float32)
    norm_kernels.add_up_values[grid](x, sums, *sizes, **blocks)
    moments = sums.view(2, grid[2], grid[0], groups, -1).sum(dim=(2, 4))
    result = torch.empty_like(x)
    norm_kernels.normalise[grid](
        x, result, moments, weight, bias, *sizes[:3], eps, *sizes[3:], silu=silu, **blocks
    )
    return result, moments


@torch.library.custom_op("vqgan_train::group_norm_silu_backward", mutates_args=())
def group_norm_silu_backward(
    gradient: Tensor,
    x: Tensor,
    moments: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, weight and bias; arguments as in `group_norm_silu`."""
    from vqgan_train.models import norm_kernels

    x = _dense(x)
    gradient = torch.empty_like(x).copy_(gradient) if gradient.stride() != x.stride() else gradient
    grid, sizes, blocks = _launch(x, groups)
    shared = (moments, weight, bias, *sizes[:3], eps, *sizes[3:])
    sums = x.new_empty(2, grid[2], grid[0], x.shape[1], dtype=torch.float32)
    norm_kernels.add_up_gradients[grid](x, gradient, sums, *shared, silu=silu, **blocks)
    sums = sums.sum(dim=2)
    group_sums = (sums * weight).view(2, grid[2], groups, -1).sum(dim=3)
    result = torch.empty_like(x)
    norm_kernels.backpropagate[grid](
        x, gradient, result, moments, group_sums, *shared[1:], silu=silu, **blocks
    )
    bias_gradient, weight_gradient = sums.sum(dim=1).to(weight.dtype).unbind()
    return result, weight_gradient.clone(), bias_gradient.clone()


@group_norm_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Any:
    return torch.empty_like(_dense(x)), x.new_empty(2, len(x), groups, dtype=torch.float32)


@group_norm_silu_backward.register_fake
def _(gradient: Tensor, x: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> Any:
    return torch.empty_like(_dense(x)), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1], weight, bias)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = group_norm_silu_backward(gradient, *ctx.saved_tensors, *ctx.settings)
    return (*gradients, None, None, None)


group_norm_silu.register_autograd(_backward, setup_context=_keep)


# A compiler would look into a cached function, and compile the trial.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def works_here() -> bool:
    """Return whether the kernels run on this machine's GPU; try once, and log why if they do not.

    True without a GPU: only fake tensors say there that they are on one.
    """
    return _try()


@functools.cache
def _try() -> bool:
    if torch.cuda.is_available():
        try:
            x, weight = torch.zeros(1, 32, 4, 4, device="cuda"), torch.zeros(32, device="cuda")
            _, moments = group_norm_silu(x, weight, weight, 32, 1e-6, True)
            group_norm_silu_backward(x, x, moments, weight, weight, 32, 1e-6, True)
        except Exception as error:  # compilers raise errors of many kinds
            log.warning(
                "WARNING: the Triton kernels of GroupNorm do not run here (%s: %s). torch's own "
                "run instead: the same results but for rounding, slower, and with more memory. "
                "Triton needs a C compiler.",
                type(error).__name__,
                first_line(error)[:200],
            )
            return False
    return True


def _dense(x: Tensor) -> Tensor:
    """Return features in one of the two layouts that the kernels read."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _launch(x: Tensor, groups: int) -> tuple[tuple[int, int, int], tuple[int, ...], dict[str, int]]:
    """Return the grid of programs, the sizes and strides, and the size of a block."""
    batch, channels, height, width = x.shape
    pixels = height * width
    grid = (-(-pixels // BLOCK_P), -(-channels // BLOCK_C), batch)
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    steps = (channels, 1) if is_last else (1, pixels)
    blocks = {"block_p": BLOCK_P, "block_c": BLOCK_C}
    return grid, (pixels, channels, channels // groups, *steps), blocks
