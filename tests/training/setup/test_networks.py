"""The weights that a new run starts from."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_config

from vqgan_train.training.lightning.module import VQGANModule
from vqgan_train.training.setup.networks import build_module, initialise


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_new_codes_are_as_far_apart_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    monkeypatch.setattr(VQGANModule, "load_frozen_weights", lambda module: None)
    config = tiny_config(tmp_path, f"model.code_scale={scale}")
    torch.manual_seed(0)
    module = build_module(config)
    initialise(module, config)
    # Of 32 x 4 numbers the deviation is known to one part in sixteen.
    assert module.generator.quantizer.codebook.weight.std().item() == pytest.approx(scale, rel=0.2)


def test_without_a_scale_new_codes_are_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VQGANModule, "load_frozen_weights", lambda module: None)
    config = tiny_config(tmp_path, "model.code_scale=null")
    module = build_module(config)
    drawn = module.generator.quantizer.codebook.weight.clone()
    initialise(module, config)
    assert torch.equal(module.generator.quantizer.codebook.weight, drawn)
    assert drawn.abs().max() <= 1 / 32
