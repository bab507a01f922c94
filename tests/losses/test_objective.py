"""One backward pass here gives the gradients of the original's two optimizer steps.

Both sides are compared in float64. In float32 each is off by rounding alone, and by far more where
rounding moves one feature of LPIPS over the kink of a ReLU: with SSE 4.1 the original's gradient at
conv_in is off by 4.5e-4 of its norm, ours by 3e-6. In float64 the two sides differ by 1e-11.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from factories import TINY_ARCHITECTURE, random_lpips_weights, tiny_images
from reference import as_ours, peer_loss, peer_vqgan
from torch import Tensor, nn

from vqgan_train.checkpoint.weight_names import to_ours
from vqgan_train.losses.objective import Objective, StepTerms
from vqgan_train.models import VQGAN, PatchDiscriminator

PERCEPTUAL_WEIGHT = 0.9
CODEBOOK_WEIGHT = 1.5
BETA = 0.25

Gradients = dict[str, Tensor]


@pytest.fixture
def float64() -> Iterator[None]:
    """Widen what the code widens to float32 to float64 instead; `Sides` are then of float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        yield


class PeerStep(NamedTuple):
    """What the original's two steps on one batch compute."""

    generator_loss: Tensor
    discriminator_loss: Tensor
    log: dict[str, Tensor]
    gradients: Gradients
    """Under our names, generator and discriminator."""


@pytest.fixture(scope="module")
def lpips_weights() -> dict[str, Tensor]:
    return random_lpips_weights()


class Sides:
    """The original and ours, with the same weights in generator, discriminator and LPIPS."""

    def __init__(
        self,
        lpips_weights: dict[str, Tensor],
        *,
        adversarial_weight: float = 1.0,
        legacy: bool = True,
        disc_start: int = 0,
    ) -> None:
        loss = peer_loss(
            lpips_weights,
            disc_start=disc_start,
            disc_weight=adversarial_weight,
            disc_num_layers=2,
            disc_ndf=8,
            perceptual_weight=PERCEPTUAL_WEIGHT,
            codebook_weight=CODEBOOK_WEIGHT,
        )
        with torch.no_grad():
            # A new discriminator's logits are all within the hinge's margin, where it is linear.
            loss.discriminator.main[-1].weight.mul_(10)
        self.peer = peer_vqgan(**TINY_ARCHITECTURE, loss=loss)
        self.peer.quantize.legacy = legacy

        self.generator = VQGAN(**TINY_ARCHITECTURE)
        self.discriminator = PatchDiscriminator(in_channels=3, channels=8, num_layers=2)
        self.objective = Objective(
            perceptual_weight=PERCEPTUAL_WEIGHT,
            adversarial_weight=adversarial_weight,
            codebook_weight=CODEBOOK_WEIGHT,
            commitment_weight=BETA,
            legacy_codebook_loss=legacy,
        )
        self.objective.lpips.load_weights(lpips_weights)
        weights = to_ours(
            {n: w for n, w in self.peer.state_dict().items() if "perceptual_loss" not in n}
        )
        self.generator.load_state_dict(as_ours(weights, "generator."))
        self.discriminator.load_state_dict(as_ours(weights, "discriminator."))

    def double(self) -> "Sides":
        """Turn all weights to float64; call it under the fixture `float64`."""
        for module in (self.peer, self.generator, self.discriminator, self.objective):
            module.double()
        return self

    def peer_step(self, images: Tensor, global_step: int = 0) -> PeerStep:
        """Do what the original's Lightning did for one batch, but for the optimizers' updates."""
        # The original's LPIPS has dropout; ours never has.
        self.peer.train().loss.perceptual_loss.eval()
        loss, last_layer = self.peer.loss, self.peer.get_last_layer()

        self.peer.zero_grad()
        reconstruction, codebook = self.peer(images)
        generator_loss, log = loss(
            codebook, images, reconstruction, 0, global_step, last_layer=last_layer
        )
        generator_loss.backward()
        gradients = self._peer_gradients(discriminator=False)

        self.peer.zero_grad()
        reconstruction, codebook = self.peer(images)
        discriminator_loss, discriminator_log = loss(
            codebook, images, reconstruction, 1, global_step, last_layer=last_layer
        )
        discriminator_loss.backward()
        gradients |= self._peer_gradients(discriminator=True)
        return PeerStep(generator_loss, discriminator_loss, log | discriminator_log, gradients)

    def our_terms(self, images: Tensor, **factors: float) -> StepTerms:
        generated = self.generator(images)
        return self.objective(
            images,
            generated.reconstruction,
            generated.latents,
            generated.codes,
            discriminate=self.discriminator,
            last_layer=self.generator.decoder.conv_out.weight,
            **factors,
        )

    def our_gradients(self) -> Gradients:
        modules = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        return {name: p.grad.clone() for name, p in modules.named_parameters()}

    def _peer_gradients(self, *, discriminator: bool) -> Gradients:
        return to_ours(
            {
                name: p.grad.clone()
                for name, p in self.peer.named_parameters()
                if "perceptual_loss" not in name
                and name.startswith("loss.discriminator") == discriminator
            }
        )


def assert_gradients_close(found: Gradients, expected: Gradients) -> None:
    """Each float64 gradient differs by at most 1e-9 of its norm.

    The two sides differ by 1e-11: LPIPS has its epsilon under the root here, and behind it there.
    Some gradients are zero but for rounding: what a convolution adds to all positions of a channel,
    the norm behind it takes away. Those may differ by 1e-12 of the norm of its network's gradients.
    """
    assert found.keys() == expected.keys()
    assert {gradient.dtype for gradient in (found | expected).values()} == {torch.float64}
    for network in ("generator", "discriminator"):
        names = [name for name in expected if name.startswith(network)]
        total = torch.stack([expected[name].norm() for name in names]).norm()
        for name in names:
            distance = (found[name] - expected[name]).norm()
            allowed = 1e-9 * expected[name].norm() + 1e-12 * total
            assert distance <= allowed, f"{name}: {distance:.3g} of {expected[name].norm():.3g}"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "paper"])
@pytest.mark.parametrize("adversarial_weight", [1.0, 0.75])
def test_every_gradient_is_the_one_of_the_original(
    lpips_weights: dict[str, Tensor], adversarial_weight: float, legacy: bool
) -> None:
    sides = Sides(lpips_weights, adversarial_weight=adversarial_weight, legacy=legacy).double()
    expected = sides.peer_step(tiny_images().double())
    sides.our_terms(tiny_images().double()).backward.backward()
    assert all(gradient.norm() > 0 for gradient in expected.gradients.values())
    assert_gradients_close(sides.our_gradients(), expected.gradients)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "paper"])
def test_every_term_is_the_one_of_the_original(
    lpips_weights: dict[str, Tensor], legacy: bool
) -> None:
    sides = Sides(lpips_weights, adversarial_weight=0.75, legacy=legacy).double()
    expected = sides.peer_step(tiny_images().double())
    terms = sides.our_terms(tiny_images().double())
    assert 0 < terms.adaptive_weight < 7500, "the weight is at its bound, where all are equal"
    for found, peers in (
        (terms.total, expected.generator_loss),
        (terms.reconstruction, expected.log["train/nll_loss"]),
        (terms.perceptual, expected.log["train/p_loss"]),
        (terms.codebook, expected.log["train/quant_loss"]),
        (terms.adversarial, expected.log["train/g_loss"]),
        (terms.adaptive_weight, expected.log["train/d_weight"]),
        (terms.discriminator, expected.discriminator_loss),
        (terms.real_logits, expected.log["train/logits_real"]),
        (terms.fake_logits, expected.log["train/logits_fake"]),
    ):
        torch.testing.assert_close(found, peers.detach(), rtol=1e-9, atol=1e-12)


def test_float32_loses_little_of_float64(
    lpips_weights: dict[str, Tensor], request: pytest.FixtureRequest
) -> None:
    # Off by 1e-5 of the norm with AVX-512, AVX2 and SSE 4.1; a feature that rounding moves over a
    # ReLU's kink may cost some 1e-4 more.
    short, exact = Sides(lpips_weights), Sides(lpips_weights)
    short.our_terms(tiny_images()).backward.backward()
    request.getfixturevalue("float64")
    exact.double().our_terms(tiny_images().double()).backward.backward()
    found, expected = short.our_gradients(), exact.our_gradients()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        distance = (found[name].double() - gradient).norm()
        assert distance <= 2e-3 * gradient.norm() + 1e-6 * total, name


@pytest.mark.usefixtures("float64")
def test_before_its_start_the_adversarial_game_is_off_as_in_the_original(
    lpips_weights: dict[str, Tensor],
) -> None:
    sides = Sides(lpips_weights, disc_start=5).double()
    expected = sides.peer_step(tiny_images().double(), global_step=4)
    terms = sides.our_terms(
        tiny_images().double(), adversarial_factor=0.0, discriminator_factor=0.0
    )
    terms.backward.backward()
    gradients = sides.our_gradients()
    assert_gradients_close(gradients, expected.gradients)
    torch.testing.assert_close(terms.total, expected.generator_loss.detach(), rtol=1e-9, atol=1e-12)
    assert terms.adaptive_weight == 0
    assert not any(gradients[n].any() for n in gradients if n.startswith("discriminator"))


@pytest.mark.usefixtures("float64")
def test_the_discriminator_can_train_before_it_is_heard(lpips_weights: dict[str, Tensor]) -> None:
    sides = Sides(lpips_weights, disc_start=5).double()
    images = tiny_images().double()
    before, after = sides.peer_step(images, global_step=4), sides.peer_step(images, global_step=5)
    sides.our_terms(images, adversarial_factor=0.0, discriminator_factor=1.0).backward.backward()
    expected = {
        name: (after if name.startswith("discriminator") else before).gradients[name]
        for name in before.gradients
    }
    assert_gradients_close(sides.our_gradients(), expected)


@pytest.mark.usefixtures("float64")
def test_backward_passes_accumulate(lpips_weights: dict[str, Tensor]) -> None:
    sides = Sides(lpips_weights).double()
    batches = [tiny_images(seed=0).double(), tiny_images(seed=1).double()]
    alone = []
    for images in batches:
        sides.our_terms(images).backward.backward()
        alone.append(sides.our_gradients())
        sides.generator.zero_grad()
        sides.discriminator.zero_grad()
    for images in batches:
        sides.our_terms(images).backward.backward()
    first, second = alone
    assert_gradients_close(
        sides.our_gradients(), {name: first[name] + second[name] for name in first}
    )


@pytest.mark.usefixtures("float64")
def test_a_scaled_backward_pass_scales_every_gradient(lpips_weights: dict[str, Tensor]) -> None:
    # As accumulation over n batches and fp16's loss scaling do.
    sides = Sides(lpips_weights).double()
    expected = sides.peer_step(tiny_images().double()).gradients
    (sides.our_terms(tiny_images().double()).backward / 4).backward()
    assert_gradients_close(sides.our_gradients(), {n: g / 4 for n, g in expected.items()})


def test_terms_hold_no_graph_but_the_one_for_backward(lpips_weights: dict[str, Tensor]) -> None:
    terms = Sides(lpips_weights).our_terms(tiny_images())._asdict()
    assert [name for name, term in terms.items() if term.requires_grad] == ["backward"]


def test_terms_are_float32_and_finite_under_bf16_autocast(
    lpips_weights: dict[str, Tensor],
) -> None:
    sides = Sides(lpips_weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = sides.our_terms(tiny_images())
    assert {term.dtype for term in terms} == {torch.float32}
    assert all(term.isfinite() for term in terms)
    terms.backward.backward()
    assert all(gradient.isfinite().all() for gradient in sides.our_gradients().values())


@torch.no_grad()
def test_distances_are_the_same_under_bf16_autocast(lpips_weights: dict[str, Tensor]) -> None:
    objective = Sides(lpips_weights).objective
    images, reconstruction = tiny_images(seed=0), tiny_images(seed=1)
    latents, codes = tiny_images(channels=16, seed=2), tiny_images(channels=16, seed=3)
    expected = objective.evaluate(images, reconstruction, latents, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.evaluate(images, reconstruction, latents, codes)
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


@torch.no_grad()
def test_validation_is_in_whole_float32_whatever_the_process_shortens(
    lpips_weights: dict[str, Tensor],
) -> None:
    objective = Sides(lpips_weights).objective
    inside: list[bool] = []

    def spy(*_: object) -> None:
        inside.append(torch.backends.cudnn.allow_tf32)

    objective.lpips.register_forward_pre_hook(spy)
    latents = tiny_images(channels=16)
    assert torch.backends.cudnn.allow_tf32, "torch's default is to shorten"
    objective.evaluate(tiny_images(seed=0), tiny_images(seed=1), latents, latents)
    assert inside == [False]
    assert torch.backends.cudnn.allow_tf32


@torch.no_grad()
def test_validation_terms_equal_those_of_a_training_step(
    lpips_weights: dict[str, Tensor],
) -> None:
    sides = Sides(lpips_weights)
    images = tiny_images()
    generated = sides.generator(images)
    found: dict[str, Any] = sides.objective.evaluate(
        images, generated.reconstruction, generated.latents, generated.codes
    )._asdict()
    with torch.enable_grad():
        terms = sides.our_terms(images)
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(terms, name))


def test_nothing_of_the_objective_is_trained_or_saved(lpips_weights: dict[str, Tensor]) -> None:
    objective = Sides(lpips_weights).objective
    assert not list(objective.parameters())
    assert not objective.state_dict()
