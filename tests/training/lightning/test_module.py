"""First steps of the discriminator's training and of the adversarial term."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from factories import OBJECTIVE, TINY_ARCHITECTURE, tiny_images

from vqgan_train.losses.objective import Objective, StepTerms
from vqgan_train.training.lightning.module import VQGANModule


def first_steps(
    monkeypatch: pytest.MonkeyPatch, *, discriminator: int, adversarial: int, warmup: int | None
) -> tuple[int, int]:
    """Run 8 steps; return the first with a discriminator loss, and the first with adversarial loss.

    Args:
        monkeypatch: replaces the losses, which are not computed.
        discriminator: discriminator_start_step.
        adversarial: adversarial_start_step.
        warmup: warm-up steps of a new discriminator; None if it is not new.
    """
    factors: list[tuple[float, float]] = []

    def forward(self: Objective, *tensors: Any, **options: Any) -> StepTerms:
        factors.append((options["discriminator_factor"], options["adversarial_factor"]))
        return StepTerms(*[torch.zeros(())] * len(StepTerms._fields))

    monkeypatch.setattr(Objective, "forward", forward)
    module = VQGANModule(
        model=TINY_ARCHITECTURE,
        discriminator={"channels": 8, "num_layers": 2},
        objective=OBJECTIVE,
        optimizer={"lr": 1e-3},
        discriminator_start_step=discriminator,
        adversarial_start_step=adversarial,
    )
    if warmup is not None:
        module.warm_up_discriminator(warmup)
    for step in range(8):
        module._trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
        with torch.no_grad():
            module.training_step({"image": tiny_images(1, 8, 8)})
    trains, felt = map(list, zip(*factors, strict=True))
    for switch in (trains, felt):
        assert switch == sorted(switch), "what is on stays on"
    return trains.index(1.0), felt.index(1.0)


@pytest.mark.parametrize(
    ("discriminator", "adversarial", "warmup", "expected"),
    [
        (2, 5, None, (2, 5)),
        (0, 3, None, (0, 3)),
        (2, 2, 3, (2, 5)),
        (2, 6, 3, (2, 6)),
        (2, 4, 0, (2, 4)),
    ],
)
def test_the_discriminator_trains_before_the_generator_feels_it(
    monkeypatch: pytest.MonkeyPatch,
    discriminator: int,
    adversarial: int,
    warmup: int | None,
    expected: tuple[int, int],
) -> None:
    found = first_steps(
        monkeypatch, discriminator=discriminator, adversarial=adversarial, warmup=warmup
    )
    assert found == expected
