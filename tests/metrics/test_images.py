"""Image metrics equal the libraries' values on real photos."""

import warnings

import lpips
import numpy as np
import pytest
import torch
from real_photos import real_photos
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)
from torchvision.transforms.functional import gaussian_blur

from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS
from vqgan_train.images.transforms import to_uint8
from vqgan_train.losses.lpips_files import ALEXNET, VGG16
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.losses.perceptual import LPIPS
from vqgan_train.metrics.images import (
    MIN_IMAGE_PX,
    PIXEL_METRICS,
    ImageMetric,
    lpips_of,
    lpips_with_alexnet,
    measure,
)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return to_uint8(real_photos(4, side=96))


@pytest.fixture(scope="module")
def blurred(photos: Tensor) -> Tensor:
    return gaussian_blur(photos, [9, 9])


@pytest.fixture(scope="module")
def metrics() -> dict[str, ImageMetric]:
    return {
        **PIXEL_METRICS,
        "lpips_vgg": lpips_of(LPIPS(find_lpips_weights(VGG16))),
        "lpips_alex": lpips_of(lpips_with_alexnet(find_lpips_weights(ALEXNET))),
    }


def test_all_that_are_named_are_there(metrics: dict[str, ImageMetric]) -> None:
    assert set(metrics) == set(IMAGE_METRICS)


def test_torchmetrics_agrees(
    photos: Tensor, blurred: Tensor, metrics: dict[str, ImageMetric]
) -> None:
    ours = measure(metrics, photos, blurred)
    for row in range(len(photos)):
        one, other = (images[row : row + 1].float() / 255 for images in (photos, blurred))
        psnr, ssim = (
            PeakSignalNoiseRatio(data_range=1.0),
            StructuralSimilarityIndexMeasure(data_range=1.0),
        )
        assert float(ours["psnr"][row]) == pytest.approx(float(psnr(other, one)), abs=1e-4)
        assert float(ours["ssim"][row]) == pytest.approx(float(ssim(other, one)), abs=1e-4)
        assert float(ours["l1"][row]) == pytest.approx(float((one - other).abs().mean()), abs=1e-6)


SKIMAGE_SSIM = {
    "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255,
    "channel_axis": -1,
}  # fmt: skip


def test_scikit_image_agrees_except_for_the_border_of_ssim(photos: Tensor, blurred: Tensor) -> None:
    ours = measure(PIXEL_METRICS, photos, blurred)
    pairs = [
        [image.permute(1, 2, 0).numpy() for image in pair]
        for pair in zip(photos, blurred, strict=True)
    ]
    psnrs = [peak_signal_noise_ratio(*pair) for pair in pairs]
    ssims = np.array([structural_similarity(*pair, **SKIMAGE_SSIM) for pair in pairs])
    assert ours["psnr"].tolist() == pytest.approx(psnrs, abs=1e-4)
    _, windows = structural_similarity_index_measure(
        blurred.float() / 255, photos.float() / 255, data_range=1.0, return_full_image=True
    )
    assert ours["ssim"].tolist() == pytest.approx(windows.mean(dim=(1, 2, 3)).tolist(), abs=1e-5)
    within = windows[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert within.tolist() == pytest.approx(ssims.tolist(), abs=1e-4)
    assert np.abs(ours["ssim"].numpy() - ssims).max() > 0.01


def test_the_mean_psnr_is_not_that_of_the_mean_error(photos: Tensor, blurred: Tensor) -> None:
    mean_of_psnrs = measure(PIXEL_METRICS, photos, blurred)["psnr"].mean()
    of_all = peak_signal_noise_ratio(photos.numpy(), blurred.numpy())
    assert mean_of_psnrs > of_all + 0.5


@pytest.mark.parametrize(("name", "network"), [("lpips_vgg", "vgg"), ("lpips_alex", "alex")])
def test_lpips_is_that_of_torchmetrics_with_the_same_weights(
    name: str,
    network: str,
    photos: Tensor,
    blurred: Tensor,
    metrics: dict[str, ImageMetric],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = _torchmetrics_lpips(network, monkeypatch)
    ours = measure({name: metrics[name]}, photos, blurred)[name]
    value = theirs(photos.float() / 255, blurred.float() / 255)
    assert float(ours.mean()) == pytest.approx(float(value), abs=1e-4)
    assert float(ours.mean()) > 0.05


def _torchmetrics_lpips(network: str, patch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Build torchmetrics' LPIPS with our convolutions instead of those it would download."""
    from torchmetrics.functional.image import lpips as module

    original = module._get_tv_model_features
    patch.setattr(
        module,
        "_get_tv_model_features",
        lambda net, pretrained=False: original(net, pretrained=False),
    )
    theirs = LearnedPerceptualImagePatchSimilarity(net_type=network, normalize=True)  # type: ignore[arg-type]
    weights = find_lpips_weights(ALEXNET if network == "alex" else VGG16)
    layers = [
        layer
        for layer in theirs.net.net.modules()  # type: ignore[union-attr]
        if isinstance(layer, torch.nn.Conv2d)
    ]
    for index, layer in enumerate(layers):
        parts = {part: weights[f"convolutions.{index}.{part}"] for part in ("weight", "bias")}
        layer.load_state_dict(parts)
    return theirs


def test_metrics_are_measured_in_whole_float32_whatever_the_process_shortens(
    photos: Tensor,
) -> None:
    inside: list[bool] = []

    def spy(reference: Tensor, _: Tensor) -> Tensor:
        inside.append(torch.backends.cudnn.allow_tf32)
        return reference.mean(dim=(1, 2, 3))

    before = torch.backends.cudnn.allow_tf32
    assert before, "torch's default is to shorten"
    measure({"spy": spy}, photos, photos)
    assert inside == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_identical_images_are_perfect(photos: Tensor, metrics: dict[str, ImageMetric]) -> None:
    found = measure(metrics, photos, photos)
    assert torch.isinf(found["psnr"]).all()
    assert found["ssim"].tolist() == pytest.approx([1] * 4)
    for name in ("l1", "lpips_vgg", "lpips_alex"):
        assert found[name].tolist() == pytest.approx([0] * 4, abs=1e-7)


def test_a_blurred_set_is_worse_in_each(
    photos: Tensor, blurred: Tensor, metrics: dict[str, ImageMetric]
) -> None:
    little = measure(metrics, photos, gaussian_blur(photos, [3, 3]))
    much = measure(metrics, photos, blurred)
    for name, values in much.items():
        worse = (
            values < little[name]
            if IMAGE_METRICS[name].higher_is_better
            else (values > little[name])
        )
        assert worse.all(), name


def test_an_image_has_the_same_values_alone_as_in_a_batch(
    photos: Tensor, blurred: Tensor, metrics: dict[str, ImageMetric]
) -> None:
    together = measure(metrics, photos, blurred)
    for row in range(len(photos)):
        alone = measure(metrics, photos[row : row + 1], blurred[row : row + 1])
        for name, values in alone.items():
            assert values.shape == (1,)
            assert float(values) == pytest.approx(float(together[name][row]), rel=1e-4), name


def test_the_smallest_image_is_measured(metrics: dict[str, ImageMetric]) -> None:
    one, other = torch.randint(0, 256, (2, 1, 3, MIN_IMAGE_PX, MIN_IMAGE_PX)).byte()
    assert all(values.isfinite().all() for values in measure(metrics, one, other).values())


def test_alexnet_is_the_networks_of_the_package_lpips() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    ours = lpips_with_alexnet(find_lpips_weights(ALEXNET))
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]
    torch.testing.assert_close(ours.lin0.model[1].weight, theirs.lin0.model[1].weight)  # type: ignore[union-attr,index]
    assert not any(weight.requires_grad for weight in ours.parameters())
