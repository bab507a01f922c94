"""Conversion to diffusers' VQModel and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import tiny_images
from safetensors.torch import load_file, save_file
from tiny_exports import (
    ARCHITECTURES,
    PLAIN_RESAMPLING,
    WIDE_AT_ONCE,
    old_diffusers_names,
    original_weights,
    same_bits,
    tiny_networks,
)
from torch import Tensor, nn

from vqgan_train.checkpoint.diffusers import from_diffusers, is_diffusers, to_diffusers
from vqgan_train.checkpoint.model_configs import diffusers_config
from vqgan_train.checkpoint.reading import read_checkpoint, read_networks
from vqgan_train.models import VQGAN
from vqgan_train.system.errors import CheckpointError, ExportError


def vq_model(architecture: dict[str, Any]) -> nn.Module:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    return diffusers.VQModel.from_config(diffusers_config(architecture)).eval()


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@torch.no_grad()
def test_a_vq_model_takes_every_weight_and_gives_the_same(overrides: dict[str, Any]) -> None:
    networks = tiny_networks(discriminator=False, **overrides)
    theirs = vq_model(networks.architecture)
    theirs.load_state_dict(to_diffusers(original_weights(networks)))
    ours = VQGAN.from_weights(networks.architecture, networks.generator, Path("tiny"))
    images = tiny_images(2, 64, 32, channels=networks.architecture["in_channels"])
    tokens = ours.encode(images)
    latents = theirs.encode(images).latents
    assert (tokens == theirs.quantize(latents)[2][2].view(tokens.shape)).float().mean() >= 0.999
    assert len(tokens.unique()) >= 5, "too few tokens to tell models apart"
    grid = (64 // ours.downsampling, 32 // ours.downsampling)
    shape = (2, *grid, networks.architecture["code_dim"])
    decoded = theirs.decode(tokens.flatten(), force_not_quantize=True, shape=shape).sample
    assert (decoded - ours.decode(tokens, grid)).abs().max() < 1e-4


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_weights_survive_the_way_there_and_back(overrides: dict[str, Any]) -> None:
    weights = original_weights(tiny_networks(discriminator=False, **overrides))
    assert same_bits(from_diffusers(to_diffusers(weights)), weights)


@torch.no_grad()
def test_a_model_that_diffusers_saved_is_a_checkpoint(tmp_path: Path) -> None:
    theirs = vq_model(tiny_networks().architecture)
    theirs.quantize.embedding.weight.normal_()
    theirs.save_pretrained(tmp_path)
    images = tiny_images()
    found = VQGAN.from_checkpoint(tmp_path / "diffusion_pytorch_model.safetensors")
    assert (found(images).reconstruction - theirs(images).sample).abs().max() < 1e-4


def test_old_names_of_diffusers_give_what_diffusers_gives(tmp_path: Path) -> None:
    theirs = vq_model(tiny_networks().architecture)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(old_diffusers_names(load_file(path)), path, {"format": "pt"})
    assert any(name.endswith(".proj_attn.weight") for name in load_file(path))
    read = type(theirs).from_pretrained(tmp_path).state_dict()
    assert same_bits(to_diffusers(read_checkpoint(path)["state_dict"]), read)


def test_what_a_vq_model_cannot_be_is_refused() -> None:
    with pytest.raises(ExportError, match="always resamples by convolution"):
        diffusers_config(tiny_networks(**PLAIN_RESAMPLING).architecture)
    with pytest.raises(ExportError, match="begin with 1, but this model's begin with 2"):
        diffusers_config(tiny_networks(**WIDE_AT_ONCE).architecture)
    one_level = {**PLAIN_RESAMPLING, "channel_multipliers": [1]}
    assert diffusers_config(tiny_networks(**one_level).architecture)["block_out_channels"] == [32]


def diffusers_file(path: Path, change: dict[str, Tensor], without: str = "") -> Path:
    weights = to_diffusers(original_weights(tiny_networks(discriminator=False)))
    kept = {name: weight for name, weight in weights.items() if name != without}
    save_file(kept | change, path)
    return path


def test_a_kl_vae_of_diffusers_is_refused(tmp_path: Path) -> None:
    path = diffusers_file(tmp_path / "vae.safetensors", {}, without="quantize.embedding.weight")
    with pytest.raises(CheckpointError, match="diffusers without a codebook, such as its KL-VAE"):
        read_networks(path)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("encoder.conv_norm_out.gain", "encoder.norm_out.gain"),
        ("decoder.up_blocks.9.resnets.0.conv1.weight", "decoder.up.-8.block.0.conv1.weight"),
        ("encoder.down.0.block.0.conv1.weight", "two weights for taming's encoder.down.0"),
        ("encoder.mid_block.resnets.2.conv1.weight", "encoder.mid_block.resnets.2.conv1.weight"),
    ],
)
def test_a_weight_too_many_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    path = diffusers_file(tmp_path / "model.safetensors", {name: torch.zeros(1)})
    with pytest.raises(CheckpointError, match=problem):
        read_networks(path)


def test_a_weight_too_few_is_refused(tmp_path: Path) -> None:
    without = "encoder.mid_block.attentions.0.to_out.0.weight"
    path = diffusers_file(tmp_path / "model.safetensors", {}, without=without)
    with pytest.raises(CheckpointError, match=r"encoder\.mid\.attn_1\.proj_out\.weight"):
        VQGAN.from_checkpoint(path)


def test_names_of_the_original_are_none_of_diffusers(tmp_path: Path) -> None:
    weights = original_weights(tiny_networks())
    assert not is_diffusers(weights)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    assert read_checkpoint(path)["state_dict"].keys() == weights.keys()
