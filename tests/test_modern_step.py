"""The modern trainer's step, which ours is timed against: losses and updates, by our classes."""

import copy
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from factories import TINY_ARCHITECTURE, random_lpips_weights, tiny_images
from reference import NLayerDiscriminator, peer_loss, peer_vqgan
from torch import Tensor, nn

from vqgan_train.checkpoint.reading import weights_under_our_names
from vqgan_train.losses.adversarial import discriminator_hinge, generator_hinge
from vqgan_train.losses.objective import codebook_loss
from vqgan_train.losses.perceptual import LPIPS
from vqgan_train.models import VQGAN, PatchDiscriminator

WEIGHTS = random_lpips_weights()


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("modern_step")


def make_trainer(modern: ModuleType, dtype: torch.dtype | None = None) -> Any:
    layers = modern.DISCRIMINATOR_LAYERS
    loss = peer_loss(WEIGHTS, disc_start=0, disc_num_layers=layers, disc_ndf=8)
    assert isinstance(loss.discriminator, NLayerDiscriminator)
    generator = peer_vqgan(**TINY_ARCHITECTURE)
    return modern.ModernTrainer(generator, loss.perceptual_loss, loss.discriminator, "cpu", dtype)


def under_our_names(generator: Any, discriminator: Any) -> dict[str, dict[str, Tensor]]:
    """Sort tensors under the original's names by network, under our names."""
    theirs = {**generator, **{f"loss.discriminator.{n}": w for n, w in discriminator.items()}}
    ours = weights_under_our_names(theirs, Path("the trainer"))
    return {
        network: {n.removeprefix(network): w for n, w in ours.items() if n.startswith(network)}
        for network in ("generator.", "discriminator.")
    }


def clipped(loss: Tensor, network: nn.Module, norm: float) -> dict[str, Tensor]:
    """Gradients of a loss, scaled to a norm over all weights of at most `norm`."""
    names, weights = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
    length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert length > norm, "nothing to clip"
    return {n: g * (norm / length) for n, g in zip(names, gradients, strict=True)}


def test_losses_and_gradients_are_those_of_our_classes(modern: ModuleType) -> None:
    trainer, images = make_trainer(modern), tiny_images()
    generator = VQGAN(**TINY_ARCHITECTURE).train()
    discriminator = PatchDiscriminator(in_channels=3, channels=8, num_layers=3).train()
    theirs = trainer.generator, trainer.discriminator
    weights = under_our_names(*(network.state_dict() for network in theirs))
    generator.load_state_dict(weights["generator."])
    discriminator.load_state_dict(weights["discriminator."])
    generated = generator(images)
    generator_loss = (
        (generated.reconstruction - images).square().mean()
        + LPIPS(WEIGHTS)(images, generated.reconstruction).mean()
        + 0.5 * generator_hinge(discriminator(generated.reconstruction))
        + codebook_loss(generated.latents, generated.codes, commitment_weight=0.25, legacy=True)
    )
    fake = discriminator(generated.reconstruction.detach())
    discriminator_loss = 0.5 * discriminator_hinge(discriminator(images), fake)
    losses = trainer.step(images)
    assert losses.generator == pytest.approx(generator_loss.item(), rel=1e-5)
    assert losses.discriminator == pytest.approx(discriminator_loss.item(), rel=1e-5)
    found = under_our_names(*({n: w.grad for n, w in net.named_parameters()} for net in theirs))
    for name, loss, network in (
        ("generator.", generator_loss, generator),
        ("discriminator.", discriminator_loss, discriminator),
    ):
        expected = clipped(loss, network, 1.0)
        assert found[name].keys() == expected.keys()
        for weight, gradient in expected.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(
                found[name][weight], gradient, rtol=1e-3, atol=1e-4 * largest + 1e-7, msg=weight
            )


def test_each_update_is_one_of_adam(modern: ModuleType) -> None:
    trainer = make_trainer(modern)
    before = [copy.deepcopy(net.state_dict()) for net in (trainer.generator, trainer.discriminator)]
    trainer.step(tiny_images())
    for network, weights in zip((trainer.generator, trainer.discriminator), before, strict=True):
        moved = max(
            float((weight.detach() - weights[name]).abs().max())
            for name, weight in network.named_parameters()
        )
        assert moved == pytest.approx(1e-4, rel=1e-2)  # Adam's first step is the rate


def test_bf16_is_the_same_step_but_for_rounding(modern: ModuleType) -> None:
    exact, rounded = (make_trainer(modern, dtype) for dtype in (None, torch.bfloat16))
    losses = [trainer.step(tiny_images()) for trainer in (exact, rounded)]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
