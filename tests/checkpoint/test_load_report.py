"""Comparison of a file's weights with a model, and its messages."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import OBJECTIVE, TINY_ARCHITECTURE, tiny_discriminator, tiny_vqgan
from torch import Tensor

from vqgan_train.checkpoint.architecture import (
    architecture_differences,
    discriminator_architecture,
    generator_architecture,
    network_differences,
)
from vqgan_train.checkpoint.load_report import LoadReport
from vqgan_train.checkpoint.weight_names import to_original
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.system.errors import CheckpointError
from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.networks import load_weights

DISCRIMINATOR = {"channels": 8, "num_layers": 2}


def our_weights() -> dict[str, Tensor]:
    """Weights of a generator and a discriminator, under our names."""
    generator, discriminator = tiny_vqgan().state_dict(), tiny_discriminator().state_dict()
    return {f"generator.{name}": w for name, w in generator.items()} | {
        f"discriminator.{name}": w for name, w in discriminator.items()
    }


def without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if not name.startswith(prefix)}


def fresh_module(**discriminator: int) -> VQGANModule:
    """A module as training starts from, with random weights."""
    return VQGANModule(
        model=dict(TINY_ARCHITECTURE),
        discriminator={**DISCRIMINATOR, **discriminator},
        objective=dict(OBJECTIVE),
        optimizer={"lr": 1e-4},
        discriminator_start_step=0,
        adversarial_start_step=0,
    )


def saved(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save({"state_dict": to_original(weights)}, path)
    return path


def test_what_fits_is_counted_by_part() -> None:
    weights = our_weights()
    report = LoadReport.compare(weights, weights)
    assert report.fits
    assert not report.discriminator_is_new
    counts = {name: len(group.loaded) for name, group in report.groups.items()}
    assert sum(counts.values()) == len(weights)
    assert counts["codebook"] == 1
    assert str(report).splitlines()[2] == "  codebook      1 loaded"


def test_gaps_are_said_under_the_names_of_the_file() -> None:
    expected = our_weights()
    found = without(expected, "generator.encoder.levels.0.blocks.0.norm1")
    found["generator.decoder.conv_in.weight"] = torch.zeros(7)
    found["generator.encoder.levels.9.resample.conv.weight"] = torch.zeros(1)
    report = LoadReport.compare(expected, found)
    assert not report.fits
    assert report.groups["encoder"].missing == (
        "encoder.down.0.block.0.norm1.weight",
        "encoder.down.0.block.0.norm1.bias",
    )
    assert report.groups["encoder"].unexpected == ("encoder.down.9.downsample.conv.weight",)
    assert report.groups["decoder"].mismatched == (
        "decoder.conv_in.weight is (7,), not (64, 32, 3, 3)",
    )
    assert report.groups["codebook"].fits
    assert "2 missing (encoder.down.0.block.0.norm1.weight, " in str(report)
    with pytest.raises(CheckpointError, match=r"a\.ckpt does not fit the model. Mend it"):
        report.require_fit(Path("a.ckpt"), "Mend it.")


def test_a_part_of_a_discriminator_is_a_gap_and_none_is_a_new_one() -> None:
    weights = our_weights()
    none = LoadReport.compare(weights, without(weights, "discriminator."))
    assert none.fits
    assert none.discriminator_is_new
    assert "none in the file" in str(none)
    part = LoadReport.compare(weights, without(weights, "discriminator.layers.0."))
    assert not part.fits
    assert not part.discriminator_is_new


@pytest.mark.parametrize(
    "prefix",
    [
        "generator.encoder.conv_in.bias",
        "generator.quant_conv.",
        "generator.decoder.levels.1.blocks.0",
    ],
)
def test_from_checkpoint_refuses_a_gap(tmp_path: Path, prefix: str) -> None:
    path = saved(without(our_weights(), prefix), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)a\.ckpt does not fit the model.*missing"):
        VQGAN.from_checkpoint(path)


def test_from_checkpoint_refuses_weights_that_no_vqgan_has(tmp_path: Path) -> None:
    weights = our_weights()
    weights["generator.encoder.conv_in.weight"] = torch.zeros(0, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        VQGAN.from_checkpoint(saved(weights, tmp_path / "a.ckpt"))
    weights["generator.encoder.conv_in.weight"] = torch.zeros(5, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        VQGAN.from_checkpoint(saved(weights, tmp_path / "a.ckpt"))


def test_training_starts_from_all_weights_of_a_file(tmp_path: Path) -> None:
    weights, module = our_weights(), fresh_module()
    report = load_weights(module, saved(weights, tmp_path / "a.ckpt"))
    assert report.fits
    assert all(torch.equal(module.state_dict()[name], w) for name, w in weights.items())


def test_training_does_not_start_from_integers(tmp_path: Path) -> None:
    weights = our_weights()
    weights["generator.encoder.conv_in.weight"] = torch.ones(32, 3, 3, 3, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight' in .* is of torch\.int8"):
        load_weights(fresh_module(), saved(weights, tmp_path / "a.ckpt"))


def test_a_file_without_discriminator_is_reported_and_leaves_it_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vqgan_train"), "propagate", True)
    module = fresh_module()
    before = {n: w.clone() for n, w in module.discriminator.state_dict().items()}
    path = saved(without(our_weights(), "discriminator."), tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO, logger="vqgan_train"):
        report = load_weights(module, path)
    assert report.discriminator_is_new
    assert "none in the file" in caplog.text
    assert all(torch.equal(module.discriminator.state_dict()[n], w) for n, w in before.items())


def test_a_discriminator_of_other_size_is_an_error_with_both_numbers(tmp_path: Path) -> None:
    path = saved(our_weights(), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="num_layers is 3, but 2 in the weights"):
        load_weights(fresh_module(num_layers=3), path)


def test_a_generator_with_a_gap_does_not_start_training(tmp_path: Path) -> None:
    path = saved(without(our_weights(), "generator.quantizer."), tmp_path / "a.ckpt")
    module = fresh_module()
    before = module.generator.encoder.conv_in.weight.clone()
    with pytest.raises(CheckpointError, match=r"1 missing \(quantize\.embedding\.weight\)"):
        load_weights(module, path)
    assert torch.equal(module.generator.encoder.conv_in.weight, before)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("channels", 64, "^channels is 64, but 32 in the weights"),
        ("channel_multipliers", [1, 1], r"channel_multipliers is \[1, 1\], but \[1, 2\]"),
        ("num_residual_blocks", 2, "num_residual_blocks is 2, but 1"),
        (
            "attention_resolutions",
            [32],
            r"puts attention on levels \[0\], but it is on levels \[1\]",
        ),
        ("latent_channels", 8, "latent_channels is 8, but 32"),
        ("code_dim", 8, "code_dim is 8, but 16"),
        ("codebook_size", 8, "codebook_size is 8, but 64"),
        ("resample_with_convolution", False, "resample_with_convolution is False, but True"),
    ],
)
def test_a_setting_that_contradicts_the_weights_is_named_with_both_values(
    setting: str, value: Any, message: str
) -> None:
    given = {**TINY_ARCHITECTURE, setting: value}
    differences = network_differences(our_weights(), model=given, discriminator=DISCRIMINATOR)
    with pytest.raises(ValueError, match=message):
        raise ValueError(differences)


def test_attention_is_compared_by_where_it_is() -> None:
    found = generator_architecture(tiny_vqgan().state_dict())
    assert not architecture_differences({**found, **TINY_ARCHITECTURE}, found)
    assert not architecture_differences({"channels": 32}, found)
    assert not network_differences({}, model=TINY_ARCHITECTURE, discriminator=DISCRIMINATOR)


@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
def test_a_discriminator_is_read_off_its_weights(channels: int, num_layers: int) -> None:
    arguments = {"in_channels": 3, "channels": channels, "num_layers": num_layers}
    with torch.device("meta"):
        weights = PatchDiscriminator(**arguments).state_dict()
    assert discriminator_architecture(weights) == arguments
