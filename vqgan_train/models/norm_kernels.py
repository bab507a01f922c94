"""Triton kernels of GroupNorm + SiLU. Import it where Triton is installed; call `fused_norm`.

Letters: B images, C channels in groups of D, P pixels. A program has `block_p` pixels of `block_c`
channels of one image; the grid is (K blocks of pixels, blocks of channels, B). Features may have
either memory layout: `step_p` and `step_c` are their strides. `moments` (2, B, C / D) has the sum
and the sum of squares of a group's values minus its first value, so that no digits are lost.
"""

# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

import triton
import triton.language as tl


@triton.jit
def _places(P, C, step_p, step_c, block_p: tl.constexpr, block_c: tl.constexpr):
    """Return the block's channels, its places in memory, and which of them exist."""
    pixels = tl.program_id(0) * block_p + tl.arange(0, block_p)
    channels = tl.program_id(1) * block_c + tl.arange(0, block_c)
    image = tl.program_id(2).to(tl.int64) * P * C
    places = image + pixels[:, None] * step_p + channels[None, :] * step_c
    return channels, places, (pixels[:, None] < P) & (channels[None, :] < C)


@triton.jit
def _first(x, channels, P, C, D, step_c):
    """Return the first value of each channel's group."""
    image = tl.program_id(2).to(tl.int64) * P * C
    return tl.load(x + image + channels // D * D * step_c, mask=channels < C, other=0).to(
        tl.float32
    )


@triton.jit
def _store_sums(sums, first, second, channels, C):
    """Store the block's sums over pixels of two arrays in sums (2, B, K, C)."""
    row = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    rows = tl.num_programs(2) * tl.num_programs(0)
    tl.store(sums + row * C + channels, tl.sum(first, axis=0), mask=channels < C)
    tl.store(sums + (rows + row) * C + channels, tl.sum(second, axis=0), mask=channels < C)


@triton.jit
def _normalise(x, places, exists, channels, moments, P, C, D, eps, step_c):
    """Return the normalised values and the reciprocal standard deviation of each channel."""
    group = tl.program_id(2) * (C // D) + channels // D
    groups = tl.num_programs(2) * (C // D)
    mean = tl.load(moments + group, mask=channels < C, other=0) / (P * D)
    square = tl.load(moments + groups + group, mask=channels < C, other=0) / (P * D)
    scale = 1 / tl.sqrt(tl.maximum(square - mean * mean, 0) + eps)
    values = tl.load(x + places, mask=exists, other=0).to(tl.float32)
    shift = _first(x, channels, P, C, D, step_c) + mean
    return (values - shift[None, :]) * scale[None, :], scale


@triton.jit
def _gradient_before_silu(
    gradient, places, exists, channels, normed, weight, bias, C, silu: tl.constexpr
):
    """Return the gradient (pixels, channels) at SiLU's input, and the weights of the channels."""
    factor = tl.load(weight + channels, mask=channels < C, other=0).to(tl.float32)
    result = tl.load(gradient + places, mask=exists, other=0).to(tl.float32)
    if silu:
        offset = tl.load(bias + channels, mask=channels < C, other=0).to(tl.float32)
        before = normed * factor[None, :] + offset[None, :]
        gate = tl.sigmoid(before)
        result = result * gate * (1 + before * (1 - gate))
    return result, factor


@triton.jit
def add_up_values(x, sums, P, C, D, step_p, step_c, block_p: tl.constexpr, block_c: tl.constexpr):
    """Store in sums (2, B, K, C) the sums of values minus the group's first, and of squares."""
    channels, places, exists = _places(P, C, step_p, step_c, block_p, block_c)
    values = tl.load(x + places, mask=exists, other=0).to(tl.float32)
    moved = tl.where(exists, values - _first(x, channels, P, C, D, step_c)[None, :], 0)
    _store_sums(sums, moved, moved * moved, channels, C)


@triton.jit
def normalise(
    x, result, moments, weight, bias,
    P, C, D, eps, step_p, step_c,
    silu: tl.constexpr, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Store GroupNorm, and SiLU if asked, of `x` in `result`."""
    channels, places, exists = _places(P, C, step_p, step_c, block_p, block_c)
    normed, _ = _normalise(x, places, exists, channels, moments, P, C, D, eps, step_c)
    factor = tl.load(weight + channels, mask=channels < C, other=0).to(tl.float32)
    offset = tl.load(bias + channels, mask=channels < C, other=0).to(tl.float32)
    values = normed * factor[None, :] + offset[None, :]
    if silu:
        values = values * tl.sigmoid(values)
    tl.store(result + places, values.to(result.dtype.element_ty), mask=exists)


@triton.jit
def add_up_gradients(
    x, gradient, sums, moments, weight, bias,
    P, C, D, eps, step_p, step_c,
    silu: tl.constexpr, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Store in sums (2, B, K, C) the gradients of bias and weight, by blocks of pixels."""
    channels, places, exists = _places(P, C, step_p, step_c, block_p, block_c)
    normed, _ = _normalise(x, places, exists, channels, moments, P, C, D, eps, step_c)
    before, _ = _gradient_before_silu(
        gradient, places, exists, channels, normed, weight, bias, C, silu
    )
    _store_sums(sums, before, before * normed, channels, C)


@triton.jit
def backpropagate(
    x, gradient, result, moments, group_sums, weight, bias,
    P, C, D, eps, step_p, step_c,
    silu: tl.constexpr, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Store the gradient of `x` in `result`; group_sums (2, B, C / D) are weighted sums."""
    channels, places, exists = _places(P, C, step_p, step_c, block_p, block_c)
    normed, scale = _normalise(x, places, exists, channels, moments, P, C, D, eps, step_c)
    before, factor = _gradient_before_silu(
        gradient, places, exists, channels, normed, weight, bias, C, silu
    )
    group = tl.program_id(2) * (C // D) + channels // D
    groups = tl.num_programs(2) * (C // D)
    mean = tl.load(group_sums + group, mask=channels < C, other=0) / (P * D)
    slope = tl.load(group_sums + groups + group, mask=channels < C, other=0) / (P * D)
    values = before * factor[None, :] - mean[None, :] - normed * slope[None, :]
    tl.store(result + places, (values * scale[None, :]).to(result.dtype.element_ty), mask=exists)
