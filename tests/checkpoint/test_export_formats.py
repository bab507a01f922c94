"""Export formats: the files that they write, and the programs that read them."""

import contextlib
import importlib
import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from clear_tokens import clear_images
from factories import FULL_ARCHITECTURE, random_lpips_weights, tiny_images
from reference import VQModel, peer_loss, peer_vqgan
from safetensors import safe_open
from safetensors.torch import load
from tiny_exports import (
    ARCHITECTURES,
    PLAIN_RESAMPLING,
    original_weights,
    same_bits,
    tiny_networks,
)
from torch import nn

from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.checkpoint.model_configs import RECIPE, flax_config, taming_config
from vqgan_train.checkpoint.reading import CheckpointWeights, read_networks
from vqgan_train.models import VQGAN

ORIGIN = {"source": "last.ckpt", "source_sha256": "0" * 64, "made_by": "vqgan_train"}
FILES = {
    "flax": {"config.json", "flax_model.msgpack"},
    "safetensors": {"model.safetensors"},
    "taming": {"config.yaml", "model.ckpt"},
    "diffusers": {"config.json", "diffusion_pytorch_model.safetensors"},
}


def written(name: str, networks: CheckpointWeights, folder: Path) -> Path:
    FORMATS[name].write(networks, ORIGIN, folder)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_writes_its_files_for_all_to_read(tmp_path: Path, name: str) -> None:
    written(name, tiny_networks(), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == FILES[name]
    plain = tmp_path / "plain"
    plain.touch()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(plain.stat().st_mode)}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_what_is_written_is_read_back_bit_by_bit(
    tmp_path: Path, overrides: dict[str, Any], name: str
) -> None:
    networks = tiny_networks(**overrides)
    found = read_networks(written(name, networks, tmp_path) / FORMATS[name].weights_file)
    assert same_bits(found.generator, networks.generator)
    kept = networks.discriminator if FORMATS[name].has_discriminator else {}
    assert same_bits(found.discriminator, kept)
    nominal = {"resolution", "attention_resolutions"}
    assert {k: v for k, v in found.architecture.items() if k not in nominal} == {
        k: v for k, v in networks.architecture.items() if k not in nominal
    }


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_export_has_the_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        written(name, tiny_networks(), tmp_path / folder)
    for file in FILES[name]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_flax_config_has_the_keys_of_the_published_one() -> None:
    config = flax_config({**tiny_networks().architecture, **FULL_ARCHITECTURE})
    assert config == {
        **{"ch": 128, "out_ch": 3, "in_channels": 3, "num_res_blocks": 2, "resolution": 256},
        **{"z_channels": 256, "ch_mult": [1, 1, 2, 2, 4], "attn_resolutions": [16]},
        **{"n_embed": 16_384, "embed_dim": 256, "dropout": 0.0, "double_z": False},
        **{"resamp_with_conv": True, "give_pre_end": False, "num_resolutions": 5},
        **{"transformers_version": "4.25.1", "architectures": ["del"]},
    }
    # The size that the hub shows for dalle-mini's, whose version has six letters too.
    assert len(json.dumps(config, indent=2, sort_keys=True) + "\n") == 434


def test_safetensors_say_what_they_are_and_where_they_came_from(tmp_path: Path) -> None:
    networks = tiny_networks()
    path = written("safetensors", networks, tmp_path) / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert names == set(original_weights(networks._replace(discriminator={})))
    assert json.loads(metadata.pop("architecture")) == networks.architecture
    assert metadata == {"format": "pt", **ORIGIN}


@pytest.mark.parametrize("letters", range(8))
def test_tensors_of_safetensors_are_aligned_however_long_their_header(
    tmp_path: Path, letters: int
) -> None:
    networks = tiny_networks(discriminator=False)
    FORMATS["safetensors"].write(networks, {"source": "x" * letters}, tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    found = load(content)
    assert same_bits(found, original_weights(networks))


def loaded_by_taming(folder: Path, loss: nn.Module) -> VQModel:
    """Load an export as users of taming do, with our stand-in for its loss module."""
    params = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]
    del params["lossconfig"]
    with contextlib.redirect_stdout(io.StringIO()):
        return VQModel(
            **params, lossconfig={"module": loss}, ckpt_path=str(folder / "model.ckpt")
        ).eval()


@pytest.mark.parametrize("discriminator", [True, False], ids=["with judge", "without"])
@torch.no_grad()
def test_taming_loads_generator_and_discriminator(tmp_path: Path, discriminator: bool) -> None:
    networks = tiny_networks(discriminator=discriminator)
    written("taming", networks, tmp_path)
    lossconfig = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["params"][
        "lossconfig"
    ]
    module, name = lossconfig["target"].rsplit(".", 1)
    loss_class = getattr(importlib.import_module(module), name)
    loss = peer_loss(random_lpips_weights(), **lossconfig["params"]) if discriminator else None
    model = loaded_by_taming(tmp_path, loss or loss_class())
    assert isinstance(model.loss, loss_class)
    trained = {
        name: weight
        for name, weight in model.state_dict().items()
        if not name.startswith("loss.perceptual_loss.")
    }
    assert same_bits(trained, original_weights(networks))
    ours = VQGAN.from_weights(networks.architecture, networks.generator, tmp_path)
    images = clear_images(ours, lambda seed: tiny_images(1, seed=seed))
    assert torch.equal(model.encode(images)[2][2].view(2, -1), ours.encode(images))
    assert (model(images)[0] - ours(images).reconstruction).abs().max() < 1e-5


def test_tamings_config_names_classes_that_are_there() -> None:
    config = taming_config(tiny_networks().architecture, None, RECIPE)["model"]
    module, name = config["target"].rsplit(".", 1)
    assert getattr(importlib.import_module(module), name) is VQModel
    assert config["base_learning_rate"] == 4.5e-6


def test_tamings_config_has_the_losses_of_the_run(tmp_path: Path) -> None:
    run = RECIPE._replace(
        codebook_weight=0.5, perceptual_weight=0.8, adversarial_weight=0.1, learning_rate=1e-5
    )
    for number, training in enumerate((None, run, run._replace(steps_to_adversary=70))):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        FORMATS["taming"].write(tiny_networks()._replace(training=training), ORIGIN, folder)
        expected = training or RECIPE
        model = yaml.safe_load((folder / "config.yaml").read_text())["model"]
        loss = model["params"]["lossconfig"]["params"]
        assert model["base_learning_rate"] == expected.learning_rate
        peer = peer_loss(random_lpips_weights(), **loss)
        assert peer.codebook_weight == expected.codebook_weight
        assert peer.perceptual_weight == expected.perceptual_weight
        assert peer.discriminator_weight == expected.adversarial_weight
        assert peer.discriminator_iter_start == expected.steps_to_adversary


def test_what_taming_cannot_be_told_stands_in_its_config(tmp_path: Path) -> None:
    run = RECIPE._replace(commitment_weight=0.5)
    FORMATS["taming"].write(tiny_networks()._replace(training=run), ORIGIN, tmp_path)
    first = (tmp_path / "config.yaml").read_text().splitlines()[0]
    assert first.startswith("# The run had commitment_weight 0.5 and legacy_codebook_loss true; ta")


def test_tamings_config_tells_plain_resampling(tmp_path: Path) -> None:
    networks = tiny_networks(discriminator=False, **PLAIN_RESAMPLING)
    written("taming", networks, tmp_path)
    model = loaded_by_taming(tmp_path, nn.Identity())
    peer = peer_vqgan(**networks.architecture)
    assert model.state_dict().keys() == peer.state_dict().keys()


def test_a_checkpoint_for_taming_holds_no_code(tmp_path: Path) -> None:
    written("taming", tiny_networks(), tmp_path)
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert content["vqgan_train"] == ORIGIN
