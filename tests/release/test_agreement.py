"""Comparing two tokenizers."""

import torch
from factories import tiny_images, tiny_vqgan

from vqgan_train.release.conversion import Agreement, agreement


def test_a_model_agrees_with_itself() -> None:
    model, images = tiny_vqgan().eval(), tiny_images(2, 32, 16)
    assert agreement(model, model, images) == Agreement(256, 256, 0.0)


def test_tokens_and_images_are_compared_apart() -> None:
    model, images = tiny_vqgan().eval(), tiny_images()
    other = tiny_vqgan().eval()
    with torch.no_grad():
        other.decoder.conv_out.bias.add_(torch.tensor([0.0, -0.25, 0.125]))
    agreed = agreement(model, other, images)
    assert agreed.equal_tokens == agreed.num_tokens == 512
    assert abs(agreed.largest_difference - 0.25) < 1e-6

    # Every token is another, but decoding starts from the first one's.
    reversed_codes = tiny_vqgan().eval()
    with torch.no_grad():
        reversed_codes.quantizer.codebook.weight.copy_(model.quantizer.codebook.weight.roll(1, 0))
    assert agreement(model, reversed_codes, images).equal_tokens == 0


def test_what_is_no_number_is_no_agreement() -> None:
    model, images = tiny_vqgan().eval(), tiny_images()
    other = tiny_vqgan().eval()
    with torch.no_grad():
        other.decoder.conv_out.bias.fill_(torch.nan)
    assert not agreement(model, other, images).largest_difference < 1e9
