"""Weights in entries, behind prefixes and in larger models; docs/export.md has the same layouts."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_exports import old_diffusers_names, original_weights, same_bits, tiny_networks
from torch import Tensor

from vqgan_train.checkpoint.diffusers import to_diffusers
from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.checkpoint.reading import read_checkpoint, read_networks
from vqgan_train.models import VQGAN
from vqgan_train.release import conversion
from vqgan_train.system.errors import CheckpointError

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
TABLE = PAGE.partition("## Weights of other trainers")[2].partition("\n## ")[0]
ONE_LEVEL = {"channel_multipliers": [1], "attention_resolutions": [32]}
OURS = tiny_networks(discriminator=False, **ONE_LEVEL)
RAW = original_weights(OURS)
MEAN = {name: weight + 1 for name, weight in RAW.items()}
OTHER = {"model.diffusion_model.out.weight": torch.zeros(2), "logvar": torch.zeros(())}


def behind(prefix: str, weights: dict[str, Tensor] = RAW) -> dict[str, Tensor]:
    return {f"{prefix}{name}": weight for name, weight in weights.items()}


def lit_ema(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Averages as latent-diffusion and SEED-Voken save them."""
    compact = {f"model_ema.{name.replace('.', '')}": w for name, w in weights.items()}
    return compact | {"model_ema.decay": torch.tensor(0.99)}


READ: dict[str, Any] = {
    **{name: {name: RAW, "steps": 3} for name in ("state_dict", "model", "module")},
    **{name: {name: RAW, "steps": 3} for name in ("generator", "params")},
    **{
        f"{prefix}*": {"state_dict": behind(prefix)}
        for prefix in ("module.", "_orig_mod.", "_forward_module.", "model.", "generator.")
    },
    "vqgan.*": behind("vqgan."),
    "first_stage_model.*": {"state_dict": behind("first_stage_model.") | OTHER | lit_ema(OTHER)},
    "quantizer.*": OURS.generator,
    "encoder._orig_mod.*": {
        re.sub(r"^(encoder|decoder)\.", r"\1._orig_mod.", name): w for name, w in RAW.items()
    },
    "query": old_diffusers_names(to_diffusers(RAW)),
}
AVERAGED: dict[str, Any] = {
    "ema": {"model": RAW, "ema": MEAN},
    "model_ema": {"model_ema": MEAN, "state_dict": RAW},
    "model_ema.*": {"state_dict": RAW | lit_ema(MEAN)},
    "ema.*": behind("model.") | behind("ema.", MEAN),
}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def found(path: Path, **options: bool) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = read_checkpoint(path, **options)["state_dict"]
    return weights


@pytest.mark.parametrize("layout", READ)
def test_one_model_is_found_wherever_it_lies(tmp_path: Path, layout: str) -> None:
    path = saved(READ[layout], tmp_path / "a.ckpt")
    assert same_bits(found(path), RAW)
    assert read_networks(path).architecture["channel_multipliers"] == [1]
    with pytest.raises(CheckpointError, match="it holds no averaged weights"):
        read_networks(path, averaged=True)


@pytest.mark.parametrize("layout", AVERAGED)
def test_raw_and_averaged_weights_are_told_apart(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vqgan_train"), "propagate", True)
    path = saved(AVERAGED[layout], tmp_path / "a.ckpt")
    assert same_bits(found(path), RAW)
    assert "as trained. To take the averaged ones instead, convert the file" in caplog.text
    caplog.clear()
    assert same_bits(found(path, averaged=True), MEAN)
    assert "averaged ones" in caplog.text


def test_averages_alone_are_taken_as_they_are(tmp_path: Path) -> None:
    for content in ({"ema": MEAN}, behind("ema.", MEAN)):
        path = saved(content, tmp_path / "a.ckpt")
        assert same_bits(found(path), MEAN)
        assert same_bits(found(path, averaged=True), MEAN)


def test_averages_leave_the_discriminator_out_and_lack_nothing_in_silence(tmp_path: Path) -> None:
    full = original_weights(tiny_networks(**ONE_LEVEL))
    path = saved({"state_dict": full | lit_ema(full)}, tmp_path / "a.ckpt")
    assert read_networks(path).discriminator
    averaged = read_networks(path, averaged=True)
    assert averaged.generator
    assert not averaged.discriminator
    lacking = {n: w for n, w in lit_ema(full).items() if n != "model_ema.quant_convbias"}
    path = saved({"state_dict": full | lacking}, tmp_path / "a.ckpt")
    networks = read_networks(path, averaged=True)
    with pytest.raises(CheckpointError, match=r"missing \(quant_conv\.bias\)"):
        VQGAN.from_weights(networks.architecture, networks.generator, path)


def test_what_was_taken_from_where_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vqgan_train"), "propagate", True)
    count = len(RAW)
    for content, message in (
        (RAW, ""),
        ({"state_dict": RAW}, ""),
        ({"model": RAW}, f"took {count} of {count} weights of its entry 'model'."),
        (READ["first_stage_model.*"], f"took {count} of {count + 5} weights, those named 'first_"),
        ({"module": behind("vqgan.")}, "of its entry 'module', those named 'vqgan.*'."),
    ):
        caplog.clear()
        read_checkpoint(saved(content, tmp_path / "a.ckpt"))
        assert message in caplog.text
        assert bool(caplog.text) == bool(message)


def test_what_is_ours_in_part_or_compiled_in_part_is_refused(tmp_path: Path) -> None:
    ours = {**READ["quantizer.*"], "encoder.odd.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"weight named 'quantizer\.codebook\.weight'"):
        read_networks(saved(ours, tmp_path / "a.ckpt"))
    both = RAW | READ["encoder._orig_mod.*"]
    with pytest.raises(CheckpointError, match="both as compiled and as not"):
        read_networks(saved(both, tmp_path / "a.ckpt"))


def test_one_of_several_models_is_taken_only_if_it_is_clear_which(tmp_path: Path) -> None:
    content = behind("module.first_stage_model.") | behind("module.cond_stage_model.", MEAN)
    assert same_bits(found(saved(content, tmp_path / "a.ckpt")), RAW)
    content = behind("first.") | {"second.encoder.conv_in.weight": torch.zeros(1)}
    assert same_bits(found(saved(content, tmp_path / "a.ckpt")), RAW)  # the one with a codebook
    path = saved(behind("first.") | behind("second."), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"several models, under first\., second\.\. Save"):
        read_checkpoint(path)


def test_safetensors_and_a_larger_model_in_them_are_unwrapped_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(behind("first_stage_model.", to_diffusers(RAW)) | OTHER, path)
    assert same_bits(found(path), RAW)


ODD = torch.zeros(1)
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "LlamaGen": (
        lambda: {"model": {"encoder.conv_in.weight": ODD, "encoder.conv_blocks.0.res.0": ODD}},
        "LlamaGen's tokenizer",
    ),
    "Gumbel": (lambda: {"state_dict": RAW | {"quantize.embed.weight": ODD}}, "Gumbel"),
    "MoVQ": (lambda: RAW | {"decoder.norm_out.norm_layer.weight": ODD}, "MoVQ"),
    "KL-VAE": (
        lambda: {
            "state_dict": OTHER
            | {n: w for n, w in behind("first_stage_model.").items() if "quantize" not in n}
        },
        "'quantize.embedding.weight' is not among its .* A KL-VAE has no codebook",
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_another_model_is_named_for_what_it_is(tmp_path: Path, model: str) -> None:
    make, message = MODELS[model]
    with pytest.raises(CheckpointError, match=message):
        read_networks(saved(make(), tmp_path / "a.ckpt"))


def test_an_export_of_the_averages_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)
    path = saved(AVERAGED["model_ema.*"], tmp_path / "a.ckpt")
    conversion.convert(path, FORMATS["safetensors"], tmp_path / "out", averaged=True)
    assert same_bits(found(tmp_path / "out" / "model.safetensors"), MEAN)


def test_the_page_lists_these_layouts() -> None:
    rows = [line.split("|")[1:-1] for line in TABLE.splitlines() if line.startswith("|")][2:]
    layouts = [code for first, *_ in rows for code in re.findall(r"`([^`]+)`", first)]
    assert sorted(layouts) == sorted([*READ, *AVERAGED])
    refused = TABLE.partition("Other models are refused")[2]
    assert all(model in refused for model in MODELS)
