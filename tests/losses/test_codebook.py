"""The codebook loss on numbers computed by hand."""

import pytest
import torch
from torch import Tensor

from vqgan_train.losses.objective import codebook_loss

BETA = 0.25


def latents_and_codes() -> tuple[Tensor, Tensor]:
    """Make four pairs with differences 1, 1, 3 and 1: their mean square is 3."""
    latents = torch.tensor([0.0, 0.0, 0.0, 2.0]).view(1, 2, 1, 2).requires_grad_()
    codes = torch.tensor([1.0, -1.0, 3.0, 1.0]).view(1, 2, 1, 2).requires_grad_()
    return latents, codes


@pytest.mark.parametrize("legacy", [True, False])
def test_value_is_the_mean_square_once_for_each_side(legacy: bool) -> None:
    latents, codes = latents_and_codes()
    loss = codebook_loss(latents, codes, commitment_weight=BETA, legacy=legacy)
    assert loss.item() == pytest.approx(3 + BETA * 3)


@pytest.mark.parametrize(
    ("legacy", "encoder_scale", "codebook_scale"), [(True, 1.0, BETA), (False, BETA, 1.0)]
)
def test_beta_is_on_the_side_that_legacy_says(
    legacy: bool, encoder_scale: float, codebook_scale: float
) -> None:
    latents, codes = latents_and_codes()
    codebook_loss(latents, codes, commitment_weight=BETA, legacy=legacy).backward()
    # d/dz of the mean of four squares (z - c)^2
    pull = 2 * torch.tensor([-1.0, 1.0, -3.0, 1.0]).view(1, 2, 1, 2) / 4
    torch.testing.assert_close(latents.grad, encoder_scale * pull)
    torch.testing.assert_close(codes.grad, codebook_scale * -pull)


def test_half_precision_is_widened_before_it_is_squared() -> None:
    latents = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    loss = codebook_loss(latents, torch.zeros_like(latents), commitment_weight=0.0, legacy=True)
    assert loss.dtype == torch.float32
    assert loss.item() == 90_000  # fp16 ends at 65,504
