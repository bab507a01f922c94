"""Runs that train the decoder alone: images keep their tokens, and the encoder costs no memory."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import OBJECTIVE, TINY_ARCHITECTURE, random_lpips_weights, tiny_images
from PIL import Image, ImageOps
from real_photos import PHOTOS
from tiny_runs import assert_equal, load, tiny_config
from torch import Tensor

from vqgan_train import VQGAN, VQGANModule
from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.release import conversion
from vqgan_train.training.train import train

DISCRIMINATOR = "loss.discriminator."
LAST_BIAS = f"{DISCRIMINATOR}main.8.bias"
TRAINED = ("decoder.", "post_quant_conv.", DISCRIMINATOR)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of one step, so that they are not those of the next run's seed."""
    folder = tmp_path_factory.mktemp("start")
    train(tiny_config(folder, "run.max_steps=1", "run.seed=5"))
    return folder / "run" / "checkpoints" / "last.ckpt"


def decoder_run(folder: Path, start: Path, *overrides: str) -> Path:
    folder.mkdir(exist_ok=True)
    decoder = ("model.trained=decoder", f"model.init_from={start}", "loss.codebook_weight=0.0")
    train(tiny_config(folder, *decoder, *overrides))
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_run(tmp_path_factory.mktemp("trained"), start)


def test_only_decoder_and_discriminator_change(start: Path, trained: Path) -> None:
    before, after = load(start)["state_dict"], load(trained)["state_dict"]
    assert before.keys() == after.keys()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    # The hinge loss moves the last bias by as much for the images as against reconstructions.
    assert changed == {name for name in before if name.startswith(TRAINED)} - {LAST_BIAS}


def test_adam_keeps_moments_of_trained_weights_alone(trained: Path) -> None:
    content = load(trained)
    weights = {n: w for n, w in content["state_dict"].items() if n.startswith(TRAINED)}
    ours = [w.shape for n, w in weights.items() if not n.endswith(("mean", "var", "tracked"))]
    (adam,) = content["optimizer_states"]
    kept = [moments["exp_avg"].shape for moments in adam["state"].values()]
    assert sorted(kept) == sorted(ours)


def test_photos_keep_their_tokens_after_an_export_too(
    start: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "PROBE_SIDE", 32)
    conversion.convert(trained, FORMATS["safetensors"], tmp_path)
    models = [VQGAN.from_checkpoint(p) for p in (start, trained, tmp_path / "model.safetensors")]
    photos = conversion.probe_images(models[0])
    before, *after = (model.encode(photos) for model in models)
    assert len(before.unique()) > 4
    for tokens in after:
        assert torch.equal(tokens, before)
    reconstructions = [model.reconstruct(photos) for model in models]
    assert not torch.equal(reconstructions[0], reconstructions[1])
    assert torch.equal(reconstructions[1], reconstructions[2])


def test_people_keep_their_tokens(start: Path, trained: Path) -> None:
    people = PHOTOS.with_name("people-train-00000.tar")
    if not people.exists():
        pytest.skip(f"there are no photos at {people}")
    before, after = (VQGAN.from_checkpoint(path) for path in (start, trained))
    photos = people_in(people, side=32)
    assert len(photos) > 20
    assert torch.equal(before.encode(photos), after.encode(photos))


def people_in(shard: Path, side: int) -> Tensor:
    """All photos of a shard: (B, 3, side, side) in [-1, 1]."""
    with tarfile.open(shard) as tar:
        files = [tar.extractfile(m) for m in tar if m.name.endswith((".jpg", ".png"))]
        photos = [Image.open(io.BytesIO(f.read())).convert("RGB") for f in files if f is not None]
    pixels = np.stack([np.asarray(ImageOps.fit(photo, (side, side))) for photo in photos])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_a_resumed_run_equals_an_uninterrupted_one(
    start: Path, trained: Path, tmp_path: Path
) -> None:
    decoder_run(tmp_path, start, "run.max_steps=2")
    whole, halves = (load(path) for path in (trained, decoder_run(tmp_path, start)))
    for part in ("state_dict", "optimizer_states"):
        assert_equal(halves[part], whole[part])


def module(*, decoder_only: bool) -> VQGANModule:
    torch.manual_seed(0)
    built = VQGANModule(
        model=TINY_ARCHITECTURE,
        discriminator={"channels": 8, "num_layers": 2},
        objective=dict(OBJECTIVE),
        optimizer={"lr": 1e-3},
        discriminator_start_step=0,
        adversarial_start_step=0,
        decoder_only=decoder_only,
    )
    built.objective.lpips.load_weights(random_lpips_weights())
    return built


def test_the_trained_weights_get_the_gradients_of_full_training() -> None:
    gradients: list[dict[str, Any]] = []
    for decoder_only in (False, True):
        one = module(decoder_only=decoder_only)
        one.training_step({"image": tiny_images(2, 32, 32)})["loss"].backward()
        gradients.append({n: p.grad for n, p in one.named_parameters() if p.grad is not None})
    full, alone = gradients
    assert set(alone) == {
        name
        for name in full
        if name.startswith(("generator.decoder.", "generator.post_quant_conv.", "discriminator."))
    }
    assert_equal(alone, {name: full[name] for name in alone})


def test_the_frozen_parts_keep_no_activations_for_a_backward_pass() -> None:
    generator = module(decoder_only=True).generator
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        latents = generator.latents(tiny_images())
        codes, _ = generator.quantizer(latents)
    assert not kept
    assert not latents.requires_grad
    assert not codes.requires_grad
