"""Values that are NaN or infinite are an error, not token 0."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_exports import tiny_networks, write_checkpoint
from tiny_tokens import tiny_checkpoint

from vqgan_train.system.errors import CheckpointError, UserError
from vqgan_train.tokens.tokenizer import Tokenizer, load_tokenizer

CPU = torch.device("cpu")
PIXELS = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16).to(torch.uint8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["encoder.conv_in.weight", "quantizer.codebook.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, name: str, value: float
) -> None:
    networks = tiny_networks(discriminator=False)
    networks.generator[name].flatten()[3] = value
    path = write_checkpoint(tmp_path / "diverged.ckpt", networks)
    with pytest.raises(CheckpointError, match=rf"diverged\.ckpt has NaN or infinite.*{name}"):
        load_tokenizer(path, CPU, "fp32")


def overflowing(tmp_path: Path, precision: str, **factors: Any) -> Tokenizer:
    """A tokenizer with some weights made large."""
    networks = tiny_networks(discriminator=False)
    for name, factor in factors.items():
        networks.generator[name.replace("__", ".")] *= factor
    return load_tokenizer(write_checkpoint(tmp_path / "large.ckpt", networks), CPU, precision)


def test_fp16_that_overflows_is_an_error_that_says_which_precision_to_take(
    tmp_path: Path,
) -> None:
    large = {"encoder__conv_out__weight": 1e6}
    half = overflowing(tmp_path, "fp16", **large)
    with pytest.raises(UserError, match=r"1 of 1 images in precision=fp16.*Use precision=bf16"):
        half.encode(PIXELS, "signed")
    for precision in ("fp32", "bf16"):
        assert overflowing(tmp_path, precision, **large).encode(PIXELS, "signed").shape == (1, 64)
    half = overflowing(tmp_path, "fp16", post_quant_conv__weight=1e7)
    with pytest.raises(UserError, match=r"1 of 1 images in precision=fp16"):
        half.decode(torch.ones(1, 64, dtype=torch.int64), (8, 8), "signed")


def test_what_overflows_in_float32_is_the_checkpoints_fault(tmp_path: Path) -> None:
    tokenizer = overflowing(tmp_path, "fp32", encoder__conv_out__weight=3e38, quant_conv__weight=9)
    with pytest.raises(UserError, match="training probably diverged; use an earlier checkpoint"):
        tokenizer.encode(PIXELS, "signed")


def test_a_finite_tokenizer_is_read(tmp_path: Path) -> None:
    assert load_tokenizer(tiny_checkpoint(tmp_path), CPU, "fp32").codebook_size == 64
