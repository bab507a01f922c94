"""The original loads our checkpoints."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from clear_tokens import clear_images
from factories import random_lpips_weights, tiny_images
from reference import VQModel, peer_loss, peer_vqgan
from tiny_runs import compose_config, load, tiny_overrides

from vqgan_train import VQGAN
from vqgan_train.training.train import train


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    train(compose_config(*tiny_overrides(folder, "run.max_steps=1")))
    return folder / "run" / "checkpoints" / "last.ckpt"


def init_from_ckpt(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[VQModel, Any]:
    """Load a model by the original's `init_from_ckpt`; return it with the result of its load."""
    settings = load(path)["hyper_parameters"]
    loss = peer_loss(
        random_lpips_weights(), disc_start=0, disc_num_layers=2, disc_ndf=8, disc_in_channels=3
    )
    model = peer_vqgan(**settings["model"], loss=loss).eval()
    answers = []
    strict = VQModel.load_state_dict

    def remember(self: VQModel, *arguments: Any, **options: Any) -> Any:
        answers.append(strict(self, *arguments, **options))
        return answers[-1]

    monkeypatch.setattr(VQModel, "load_state_dict", remember)
    with contextlib.redirect_stdout(io.StringIO()):
        model.init_from_ckpt(str(path))
    (answer,) = answers
    return model, answer


def test_nothing_is_missing_but_lpips_and_nothing_is_unexpected(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, answer = init_from_ckpt(last, monkeypatch)
    assert answer.unexpected_keys == []
    assert answer.missing_keys
    assert all(name.startswith("loss.perceptual_loss.") for name in answer.missing_keys)


def test_generator_and_discriminator_give_the_same(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, _ = init_from_ckpt(last, monkeypatch)
    ours = VQGAN.from_checkpoint(last)
    images = clear_images(ours, lambda seed: tiny_images(1, seed=seed), count=3)
    with torch.inference_mode():
        tokens = theirs.encode(images)[2][2].view(3, -1)
        assert torch.equal(ours.encode(images), tokens)
        found, expected = ours(images).reconstruction, theirs(images)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = load(last)["state_dict"]
    for name, weight in theirs.loss.discriminator.state_dict().items():
        assert torch.equal(weight, weights[f"loss.discriminator.{name}"]), name
