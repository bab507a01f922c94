"""The tokenizer equals the original; its further methods and errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from clear_tokens import clear_images
from factories import FULL_ARCHITECTURE, TINY_ARCHITECTURE, tiny_images, tiny_vqgan
from reference import VQModel, as_ours, peer_vqgan
from safetensors.torch import save_file
from torch import Tensor, nn

from vqgan_train.checkpoint.weight_names import to_ours
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.system.errors import CheckpointError

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

ARCHITECTURES = {
    "tiny": {},
    "one level": {"channel_multipliers": [1], "attention_resolutions": []},
    "f16": {"channel_multipliers": [1, 1, 2, 2, 4], "attention_resolutions": [2]},
    "narrower after wider": {"channel_multipliers": [2, 1, 2]},
    "two blocks": {"num_residual_blocks": 2},
    "three blocks": {"num_residual_blocks": 3},
    "no attention": {"attention_resolutions": []},
    "attention at every level": {
        "channel_multipliers": [1, 2, 2],
        "attention_resolutions": [8, 16, 32],
        "num_residual_blocks": 2,
    },
    "attention at a resolution of no level": {"attention_resolutions": [7]},
    "another nominal resolution": {"resolution": 64, "attention_resolutions": [64]},
    "codes shorter than latents": {"latent_channels": 48, "code_dim": 8},
    "codes longer than latents": {"latent_channels": 8, "code_dim": 40},
    "many codes": {"codebook_size": 1000},
    "plain resampling": {"resample_with_convolution": False, "channel_multipliers": [1, 1, 2]},
    "grey in, RGBA out": {"in_channels": 1, "out_channels": 4},
    "dropout": {"dropout": 0.5},
}


def pair(**overrides: Any) -> tuple[VQModel, VQGAN]:
    """Make the original's model and ours with equal weights, in evaluation mode."""
    architecture = {**TINY_ARCHITECTURE, **overrides}
    peer = peer_vqgan(**architecture).eval()
    ours = VQGAN(**architecture).eval()
    ours.load_state_dict(as_ours(to_ours(peer.state_dict()), "generator."))
    return peer, ours


def images_with_clear_tokens(model: VQModel, **sizes: int) -> Tensor:
    """Two images whose tokens do not depend on the processor; sizes are those of `tiny_images`."""
    return clear_images(model, lambda seed: tiny_images(1, seed=seed, **sizes))


def original_file(path: Path, peer: VQModel) -> Path:
    """Save the original's weights as the original does, or as safetensors if the suffix says so."""
    if path.suffix == ".safetensors":
        save_file(peer.state_dict(), path)
    else:
        torch.save({"state_dict": peer.state_dict(), "epoch": 3, "global_step": 7}, path)
    return path


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@torch.no_grad()
def test_reconstruction_equals_the_original(overrides: dict[str, Any]) -> None:
    peer, ours = pair(**overrides)
    images = images_with_clear_tokens(peer, channels=overrides.get("in_channels", 3))
    torch.testing.assert_close(ours(images).reconstruction, peer(images)[0], **TOLERANCE)


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@torch.no_grad()
def test_tokens_equal_the_original(overrides: dict[str, Any]) -> None:
    peer, ours = pair(**overrides)
    images = images_with_clear_tokens(peer, channels=overrides.get("in_channels", 3))
    _, _, (_, _, expected) = peer.encode(images)
    tokens = ours.encode(images)
    torch.testing.assert_close(tokens, expected.view(len(images), -1))
    assert len(tokens.unique()) >= 4, "too few tokens to tell models apart"


@pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 16), (16, 16), (24, 40), (64, 64)])
@torch.no_grad()
def test_images_of_other_sizes_equal_the_original(height: int, width: int) -> None:
    peer, ours = pair(channel_multipliers=[1, 1, 2, 2], attention_resolutions=[4])
    images = images_with_clear_tokens(peer, height=height, width=width)
    _, _, (_, _, expected) = peer.encode(images)
    generated = ours(images)
    torch.testing.assert_close(generated.reconstruction, peer(images)[0], **TOLERANCE)
    torch.testing.assert_close(generated.tokens, expected.view(len(images), -1))


@torch.no_grad()
def test_dropout_acts_in_training_mode_only() -> None:
    model = tiny_vqgan(dropout=0.5)
    images = tiny_images()
    assert not torch.equal(model.train()(images).latents, model(images).latents)
    assert torch.equal(model.eval()(images).latents, model(images).latents)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48)])
@torch.no_grad()
def test_decoding_the_tokens_is_the_forward_pass(height: int, width: int) -> None:
    model = tiny_vqgan().eval()
    images = tiny_images(height=height, width=width)
    decoded = model.decode(model.encode(images), grid=(height // 2, width // 2))
    torch.testing.assert_close(decoded, model(images).reconstruction, **TOLERANCE)


@torch.no_grad()
def test_decoding_takes_a_square_grid_where_none_is_given() -> None:
    model = tiny_vqgan().eval()
    tokens = model.encode(tiny_images())
    assert torch.equal(model.decode(tokens), model.decode(tokens, grid=(16, 16)))


def test_decoding_a_grid_that_is_not_square_asks_for_it() -> None:
    with pytest.raises(ValueError, match=r"384 tokens .*grid=\(H // f, W // f\)"):
        tiny_vqgan().decode(torch.zeros(1, 384, dtype=torch.int64))


def test_decoding_refuses_a_grid_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"16 tokens do not fill a grid of 4 x 5"):
        tiny_vqgan().decode(torch.zeros(1, 16, dtype=torch.int64), grid=(4, 5))


@pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 3, 32, 34), (3, 32, 32)])
def test_a_size_that_does_not_divide_is_an_error_with_the_multiple_and_the_shape(
    shape: tuple[int, ...],
) -> None:
    model = tiny_vqgan(channel_multipliers=[1, 1, 1])
    for use in (model, model.encode):
        with pytest.raises(ValueError, match="multiples of 4") as caught:
            use(torch.zeros(shape))
        assert str(shape) in str(caught.value)


def test_the_gradient_of_the_reconstruction_reaches_the_encoder_and_not_the_codebook() -> None:
    model = tiny_vqgan()
    model(tiny_images()).reconstruction.square().sum().backward()
    assert model.encoder.conv_in.weight.grad.norm() > 0
    assert model.quantizer.codebook.weight.grad is None


def test_the_gradient_passes_the_codebook_as_if_it_were_not_there() -> None:
    model = tiny_vqgan()
    generated = model(tiny_images())
    generated.latents.retain_grad()
    generated.reconstruction.square().sum().backward()

    codes = generated.codes.detach().requires_grad_()
    model.decoder(model.post_quant_conv(codes)).square().sum().backward()
    torch.testing.assert_close(generated.latents.grad, codes.grad, rtol=1e-4, atol=1e-4)


def test_the_codes_of_a_pass_are_those_of_its_tokens() -> None:
    model = tiny_vqgan()
    generated = model(tiny_images(height=16, width=48))
    assert torch.equal(generated.codes, model.quantizer.lookup(generated.tokens, height=8))


def test_the_full_architecture_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = VQGAN(**FULL_ARCHITECTURE)
        discriminator = PatchDiscriminator(in_channels=3, channels=64, num_layers=2)

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert model.downsampling == 16
    assert count(model.encoder) == 29_298_176
    assert count(model.decoder) == 42_449_795
    assert count(model.quantizer) == 4_194_304
    assert count(discriminator) == 663_361


@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors"])
@torch.no_grad()
def test_a_file_of_the_original_gives_the_tokens_of_the_original(tmp_path: Path, name: str) -> None:
    # Its 32 pixels with attention at 16 are not in the file, which is read as 256 and 128.
    peer = peer_vqgan(**TINY_ARCHITECTURE).eval()
    model = VQGAN.from_checkpoint(original_file(tmp_path / name, peer))
    images = tiny_images()
    _, _, (_, _, expected) = peer.encode(images)
    torch.testing.assert_close(model.encode(images), expected.view(len(images), -1))
    torch.testing.assert_close(model(images).reconstruction, peer(images)[0], **TOLERANCE)


def test_a_model_from_a_file_is_in_evaluation_mode(tmp_path: Path) -> None:
    path = original_file(tmp_path / "last.ckpt", peer_vqgan(**TINY_ARCHITECTURE))
    assert not any(module.training for module in VQGAN.from_checkpoint(path).modules())


def test_a_missing_file_is_reported_as_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        VQGAN.from_checkpoint(str(tmp_path / "none.ckpt"))
