"""Conversion of checkpoints; a result is kept only if it is the same model."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TINY_ARCHITECTURE, random_lpips_weights, tiny_images, tiny_vqgan
from reference import peer_loss, peer_vqgan
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_exports import (
    PLAIN_RESAMPLING,
    original_weights,
    same_bits,
    tiny_networks,
    write_checkpoint,
)
from torch import Tensor

from vqgan_train.checkpoint.export_formats import FORMATS, Format
from vqgan_train.checkpoint.reading import CheckpointWeights, read_networks
from vqgan_train.models import VQGAN
from vqgan_train.release import conversion
from vqgan_train.release.conversion import Agreement, compare_models, convert, probe_images
from vqgan_train.system.errors import CheckpointError, ExportError


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself does not get better by more pixels."""
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "last.ckpt", tiny_networks())


def nothing_but(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


def of_the_original(path: Path) -> Path:
    """A VQModel as Lightning saves it: LPIPS and discriminator inside, and an optimizer."""
    loss = peer_loss(random_lpips_weights(), disc_start=0, disc_num_layers=2, disc_ndf=8)
    model = peer_vqgan(**TINY_ARCHITECTURE, loss=loss)
    optimizer = torch.optim.Adam(model.parameters())
    states = [optimizer.state_dict()]
    torch.save({"state_dict": model.state_dict(), "optimizer_states": states, "epoch": 1}, path)
    return path


def weights_alone(path: Path) -> Path:
    torch.save(original_weights(tiny_networks()), path)
    return path


def safetensors(path: Path) -> Path:
    save_file(original_weights(tiny_networks()), path)
    return path


def of_half_precision(path: Path) -> Path:
    halves = {
        name: weight.half() if weight.is_floating_point() else weight
        for name, weight in original_weights(tiny_networks()).items()
    }
    save_file(halves, path)
    return path


def exported(name: str) -> Callable[[Path], Path]:
    def export(path: Path) -> Path:
        FORMATS[name].write(tiny_networks(), {}, path.parent)
        return path.parent / FORMATS[name].weights_file

    return export


SOURCES = {
    "the original's": of_the_original,
    "weights alone": weights_alone,
    "safetensors": safetensors,
    "of half precision": of_half_precision,
    **{f"{name} again": exported(name) for name in ("flax", "taming", "diffusers")},
}


@pytest.mark.parametrize("name", ["flax", "taming"])
@pytest.mark.parametrize("write", SOURCES.values(), ids=SOURCES.keys())
def test_whatever_can_be_read_can_be_exported(
    tmp_path: Path, write: Callable[[Path], Path], name: str
) -> None:
    (tmp_path / "source").mkdir()
    source = write(tmp_path / "source" / "some.file")
    made = convert(source, FORMATS[name], tmp_path / "export")
    assert made.agreement == Agreement(4 * 256, 4 * 256, 0.0)
    assert made.codebook_size == 64
    assert set(made.files) == set((tmp_path / "export").iterdir())
    before = read_networks(source)
    after = read_networks(tmp_path / "export" / FORMATS[name].weights_file)
    assert same_bits(after.generator, before.generator)
    kept = FORMATS[name].has_discriminator and bool(before.discriminator)
    assert bool(after.discriminator) == kept
    assert made.omits_discriminator == (bool(before.discriminator) and not kept)
    assert made.num_weights == len(after.generator) + len(after.discriminator)


def test_the_way_through_all_formats_ends_where_it_began(tmp_path: Path, checkpoint: Path) -> None:
    source = checkpoint
    for step, name in enumerate(("flax", "diffusers", "safetensors", "taming", "flax")):
        folder = tmp_path / f"{step}_{name}"
        convert(source, FORMATS[name], folder)
        source = folder / FORMATS[name].weights_file
    first = tmp_path / "0_flax" / "flax_model.msgpack"
    assert first.read_bytes() == source.read_bytes()


def test_the_export_says_where_it_came_from(tmp_path: Path, checkpoint: Path) -> None:
    convert(checkpoint, FORMATS["safetensors"], tmp_path / "export")
    with safe_open(tmp_path / "export" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == "last.ckpt"
    assert metadata["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert str(tmp_path) not in repr(metadata), "folders are nobody's business"


def test_an_export_again_is_the_same_and_another_is_refused(
    tmp_path: Path, checkpoint: Path
) -> None:
    first = convert(checkpoint, FORMATS["flax"], tmp_path / "export")
    assert convert(checkpoint, FORMATS["flax"], tmp_path / "export") == first
    # diffusers has a config.json too.
    with pytest.raises(ExportError, match=r"holds different files named config\.json"):
        convert(checkpoint, FORMATS["diffusers"], tmp_path / "export")
    assert set((tmp_path / "export").iterdir()) == set(first.files)


def changed(change: Callable[[dict[str, Tensor]], None]) -> Format:
    """A format whose writer does not write what it was given."""

    def write(networks: CheckpointWeights, origin: Mapping[str, str], folder: Path) -> None:
        generator = {name: weight.clone() for name, weight in networks.generator.items()}
        change(generator)
        taming.write(networks._replace(generator=generator), origin, folder)

    taming = FORMATS["taming"]
    return taming._replace(write=write)


def flip_a_bit(weights: dict[str, Tensor]) -> None:
    weights["decoder.conv_out.bias"].view(torch.int32)[0] ^= 1


def negate_a_zero(weights: dict[str, Tensor]) -> None:
    weights["encoder.norm_out.bias"][0] = -0.0


def transpose(weights: dict[str, Tensor]) -> None:
    name = "encoder.middle.attention.query.weight"
    weights[name] = weights[name].transpose(0, 1).contiguous()


def drop(weights: dict[str, Tensor]) -> None:
    del weights["encoder.levels.0.resample.conv.bias"]


DEFECTS = [flip_a_bit, negate_a_zero, transpose, drop]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_writer_that_changes_weights_is_caught_and_nothing_stays(
    tmp_path: Path, defect: Callable[[dict[str, Tensor]], None]
) -> None:
    networks = tiny_networks()
    networks.generator["encoder.norm_out.bias"][0] = 0.0
    path = write_checkpoint(tmp_path / "last.ckpt", networks)
    with pytest.raises(
        ExportError,
        match=r"differs from the checkpoint in 1 weights, for example \S+, so it was not kept",
    ):
        convert(path, changed(defect), tmp_path / "export")
    assert nothing_but(path)


@pytest.mark.parametrize(
    "agreed",
    [Agreement(1000, 998, 0.0), Agreement(1000, 1000, 0.001), Agreement(1000, 1000, float("nan"))],
)
def test_another_model_is_caught_and_nothing_stays(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, agreed: Agreement
) -> None:
    monkeypatch.setattr(conversion, "compare_models", lambda *_: agreed)
    with pytest.raises(ExportError, match="gives other results than the checkpoint"):
        convert(checkpoint, FORMATS["flax"], checkpoint.parent / "export")
    assert nothing_but(checkpoint)


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        del weights[name]

    return change


def with_nan(weights: dict[str, Tensor]) -> None:
    weights["loss.discriminator.main.0.bias"][1] = torch.nan
    weights["quantize.embedding.weight"][3, 2] = torch.inf


BROKEN = {
    "no attention": (without("encoder.mid.attn_1.q.weight"), "encoder.mid.attn_1.q.weight"),
    "no codebook": (without("quantize.embedding.weight"), "is not a VQGAN checkpoint"),
    "half a discriminator": (
        without("loss.discriminator.main.3.running_mean"),
        r"loss\.discriminator\.main\.3\.running_mean",
    ),
    "a discriminator's end": (
        without("loss.discriminator.main.0.weight"),
        "discriminator is incomplete",
    ),
    "infinite": (with_nan, "NaN or infinite values in 2 of its .* quantizer.codebook.weight"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_checkpoint_is_not_exported(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    weights = original_weights(tiny_networks())
    change(weights)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights}, path)
    with pytest.raises(CheckpointError, match=message):
        convert(path, FORMATS["taming"], tmp_path / "export")
    assert nothing_but(path)


def test_what_a_format_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "last.ckpt", tiny_networks(**PLAIN_RESAMPLING))
    with pytest.raises(ExportError, match="diffusers cannot hold it"):
        convert(path, FORMATS["diffusers"], tmp_path / "export")
    assert nothing_but(path)


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        ({}, (4, 3, 32, 32)),
        ({"in_channels": 1}, (4, 1, 32, 32)),
        ({"in_channels": 4}, (4, 4, 32, 32)),
        ({"channel_multipliers": [1] * 7}, (4, 3, 64, 64)),
    ],
)
def test_there_are_images_for_every_model(
    overrides: dict[str, Any], shape: tuple[int, ...]
) -> None:
    networks = tiny_networks(**overrides)
    model = VQGAN.from_weights(networks.architecture, networks.generator, Path("tiny"))
    images = probe_images(model)
    assert images.shape == shape
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0.3
    model.encode(images)


def test_the_settings_of_a_run_go_along(tmp_path: Path) -> None:
    networks = tiny_networks(dropout=0.1)
    settings = {"model": networks.architecture}
    path = write_checkpoint(tmp_path / "last.ckpt", networks, hyper_parameters=settings)
    convert(path, FORMATS["flax"], tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    # The weights alone would tell 128 of 256.
    assert (config["attn_resolutions"], config["resolution"]) == ([16], 32)
    assert config["dropout"] == 0.1


def test_a_model_agrees_with_itself() -> None:
    model, images = tiny_vqgan().eval(), tiny_images(2, 32, 16)
    assert compare_models(model, model, images) == Agreement(256, 256, 0.0)


def test_tokens_and_images_are_compared_separately() -> None:
    model, images = tiny_vqgan().eval(), tiny_images()
    other = tiny_vqgan().eval()
    with torch.no_grad():
        other.decoder.conv_out.bias.add_(torch.tensor([0.0, -0.25, 0.125]))
    agreed = compare_models(model, other, images)
    assert agreed.equal_tokens == agreed.num_tokens == 512
    assert abs(agreed.largest_difference - 0.25) < 1e-6

    # Every token is another, but decoding starts from the first one's.
    reversed_codes = tiny_vqgan().eval()
    with torch.no_grad():
        reversed_codes.quantizer.codebook.weight.copy_(model.quantizer.codebook.weight.roll(1, 0))
    assert compare_models(model, reversed_codes, images).equal_tokens == 0


def test_nan_is_no_agreement() -> None:
    model, images = tiny_vqgan().eval(), tiny_images()
    other = tiny_vqgan().eval()
    with torch.no_grad():
        other.decoder.conv_out.bias.fill_(torch.nan)
    assert not compare_models(model, other, images).largest_difference < 1e9
