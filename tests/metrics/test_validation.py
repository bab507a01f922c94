"""PSNR and SSIM of validation, compared with libraries and with values computed by hand."""

import math

import numpy as np
import pytest
import torch
from factories import tiny_images
from skimage.metrics import structural_similarity

from vqgan_train.metrics.validation import SIGNED_METRICS

psnr, ssim = SIGNED_METRICS["psnr"], SIGNED_METRICS["ssim"]


def test_psnr_equals_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    images, reconstruction = tiny_images(3, seed=0), tiny_images(3, seed=1)
    for image, made, ours in zip(images, reconstruction, psnr(images, reconstruction), strict=True):
        theirs = torchmetrics.peak_signal_noise_ratio(made, image, data_range=(-1.0, 1.0))
        assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_psnr_of_a_constant_error() -> None:
    images = torch.zeros(2, 3, 4, 4)
    # 10 log10(2^2 / 0.1^2)
    assert psnr(images, images + 0.1).tolist() == pytest.approx([26.0206, 26.0206])


def test_psnr_clips_as_a_picture_file_does_and_knows_equal_images() -> None:
    white = torch.ones(1, 3, 4, 4)
    assert math.isinf(float(psnr(white, white * 1.5)))


def test_psnr_of_half_precision_is_worked_out_in_float32() -> None:
    images = tiny_images(2, seed=0).bfloat16()
    result = psnr(images, images - 2**-6)
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()


def test_ssim_equals_scikit_image() -> None:
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reconstruction = (0.8 * images + 0.1).clamp(-1, 1)
    # torchmetrics mirrors the image at its border, scikit-image leaves the border out.
    border = ((0, 0), (0, 0), (5, 5), (5, 5))
    arrays = (
        np.pad(((batch + 1) / 2).numpy(), border, mode="reflect")
        for batch in (images, reconstruction)
    )
    for image, made, ours in zip(*arrays, ssim(images, reconstruction), strict=True):
        theirs = structural_similarity(
            image,
            made,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ours) == pytest.approx(theirs, abs=1e-5)


def test_ssim_of_one_image_is_that_of_a_batch_of_one() -> None:
    assert ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)).shape == (1,)


def test_ssim_of_equal_and_of_clipped_images_is_1() -> None:
    white = torch.ones(2, 3, 16, 16)
    assert ssim(white, white * 1.5).tolist() == [1.0, 1.0]


def test_ssim_is_worked_out_in_float32_under_autocast() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reconstruction = images * 0.9
    with torch.autocast("cpu", torch.bfloat16):
        half = ssim(images, reconstruction)
    assert torch.equal(half, ssim(images, reconstruction))
