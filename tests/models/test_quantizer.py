"""Search for the nearest code."""

import pytest
import torch
from factories import tiny_images
from torch import Tensor

from vqgan_train.models import VectorQuantizer


def quantizer_with(codes: list[list[float]]) -> VectorQuantizer:
    """Make a quantizer with the given codes."""
    weights = torch.tensor(codes)
    quantizer = VectorQuantizer(*weights.shape)
    quantizer.load_state_dict({"codebook.weight": weights})
    return quantizer


def latents_of(rows: list[list[float]], height: int) -> Tensor:
    """Make latents (1, D, height, len(rows) / height) whose vectors are `rows`, row by row."""
    return torch.tensor(rows).T.reshape(1, len(rows[0]), height, -1)


def test_the_token_is_the_nearest_code() -> None:
    quantizer = quantizer_with([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    latents = latents_of([[0.4, 0.0], [0.6, 0.0], [0.0, 1.4], [0.0, 1.6]], height=2)
    assert quantizer(latents).tokens.tolist() == [[0, 1, 0, 2]]


def test_the_length_of_a_code_counts_and_not_only_its_direction() -> None:
    quantizer = quantizer_with([[1.0, 1.0], [10.0, 10.0]])
    assert quantizer.nearest(latents_of([[2.0, 2.0]], height=1)).tolist() == [[0]]


def test_tokens_equal_an_exhaustive_search_in_float64() -> None:
    quantizer = VectorQuantizer(500, 16)
    torch.nn.init.normal_(quantizer.codebook.weight, generator=torch.Generator().manual_seed(0))
    latents = tiny_images(2, 8, 6, channels=16) * 2
    vectors = latents.double().permute(0, 2, 3, 1).reshape(2, 48, 16)
    expected = torch.cdist(vectors, quantizer.codebook.weight.detach().double()).argmin(dim=2)
    assert torch.equal(quantizer.nearest(latents), expected)


def test_codes_lie_where_their_latents_were() -> None:
    quantizer = quantizer_with([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    rows = [[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 3.0], [1.0, 0.0]]
    latents = latents_of(rows, height=2)
    assert torch.equal(quantizer(latents).codes, latents)


def test_lookup_places_tokens_row_by_row() -> None:
    quantizer = quantizer_with([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    codes = quantizer.lookup(torch.arange(6).view(1, 6), height=2)
    assert codes.tolist() == [[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]]


def test_the_gradient_of_codes_reaches_the_chosen_ones_only() -> None:
    quantizer = quantizer_with([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    latents = latents_of([[0.1, 0.0], [0.0, 2.9]], height=1).requires_grad_()
    quantizer(latents).codes.sum().backward()
    assert quantizer.codebook.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    assert latents.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_search_is_in_float32_under_autocast(dtype: torch.dtype) -> None:
    # In half precision 100.25 and 100.5 are one number, and so are the distances to them.
    quantizer = quantizer_with([[100.5, 0.0], [100.25, 0.0]])
    with torch.autocast("cpu", dtype=dtype):
        quantized = quantizer(latents_of([[100.26, 0.0], [100.49, 0.0]], height=1))
    assert quantized.tokens.tolist() == [[1, 0]]
    assert quantized.codes.dtype == torch.float32


def test_latents_in_half_precision_are_taken() -> None:
    quantizer = quantizer_with([[0.0, 0.0], [1.0, 0.0]])
    assert quantizer(latents_of([[0.75, 0.0]], height=1).bfloat16()).tokens.tolist() == [[1]]


def test_new_codes_are_uniform_in_one_over_their_number() -> None:
    codes = VectorQuantizer(100, 64).codebook.weight.detach()
    assert codes.abs().max() <= 0.01
    assert codes.abs().max() > 0.0095
    assert codes.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.05)
