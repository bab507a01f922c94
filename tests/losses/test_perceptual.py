import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor, nn

from vqgan_train.losses.lpips_files import VGG16
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.losses.perceptual import LPIPS, _unit_length

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def real_weights() -> Weights:
    return find_lpips_weights(VGG16)


@pytest.fixture(scope="module")
def distance(real_weights: Weights) -> LPIPS:
    return LPIPS(real_weights)


@pytest.fixture(scope="module")
def published(real_weights: Weights) -> Any:
    """The package lpips, with our convolutions in its VGG16 and its own heads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It calls torchvision as torchvision 0.12 had it.
        module = pytest.importorskip("lpips").LPIPS(net="vgg", pnet_rand=True, verbose=False)
    convolutions = [layer for layer in module.net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    with torch.no_grad():
        for index, convolution in enumerate(convolutions):
            convolution.weight.copy_(real_weights[f"convolutions.{index}.weight"])
            assert convolution.bias is not None
            convolution.bias.copy_(real_weights[f"convolutions.{index}.bias"])
    return module


def photo(load: Callable[[], Any], size: int = 64) -> Tensor:
    """Cut (1, 3, size, size) in [-1, 1] from the middle of a photo of scikit-image."""
    pixels = load()
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    crop = torch.tensor(pixels[top : top + size, left : left + size, :3])
    return crop.permute(2, 0, 1)[None] / 127.5 - 1


def photos() -> Tensor:
    loaders = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee)
    return torch.cat([photo(load) for load in loaders])


def test_distances_equal_the_published_package(distance: LPIPS, published: Any) -> None:
    reference, image = photos(), photos().roll(1, dims=0)
    with torch.no_grad():
        ours, theirs = distance(reference, image), published(reference, image).flatten()
    assert ours.shape == (3,)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_gradients_equal_the_published_package(distance: LPIPS, published: Any) -> None:
    reference = photos()
    ours, theirs = (photos().roll(1, dims=0).requires_grad_() for _ in range(2))
    distance(reference, ours).sum().backward()
    published(reference, theirs).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert (ours.grad - theirs.grad).abs().max() < 1e-5 * theirs.grad.abs().max()


def test_distances_of_known_photos_are_those_of_the_published_package(distance: LPIPS) -> None:
    # The published 0.5686 and 0.4217 belong to images that no package ships. These two numbers were
    # computed with lpips 0.1.4 on scikit-image's photos, and hold without that package.
    astronaut, chelsea = photo(skimage.data.astronaut, 128), photo(skimage.data.chelsea, 128)
    with torch.no_grad():
        found = distance(torch.cat([astronaut] * 2), torch.cat([astronaut.flip(3), chelsea]))
    torch.testing.assert_close(found, torch.tensor([0.57408088, 0.71772432]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_gradient_is_finite_for_identical_and_for_constant_images(
    distance: LPIPS, value: float
) -> None:
    constant = torch.full((1, 3, 32, 32), value)
    for reference in (constant, photo(skimage.data.astronaut, 32)):
        image = constant.clone().requires_grad_()
        distance(reference, image).sum().backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()


def test_identical_images_have_distance_zero(distance: LPIPS) -> None:
    assert distance(photos(), photos()).tolist() == [0.0, 0.0, 0.0]


def test_a_vector_of_zeros_stays_zero_with_a_finite_gradient() -> None:
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    scaled = _unit_length(features)
    torch.autograd.backward(scaled.sum())
    assert not scaled.any()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_every_feature_zero_gives_a_finite_gradient() -> None:
    distance = LPIPS({name: torch.zeros(shape) for name, shape in VGG16.shapes().items()})
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        distance(torch.ones(1, 3, 16, 16), image).sum().backward()


def saved_elements(distance: LPIPS, reference: Tensor, image: Tensor) -> int:
    """Count the elements, except weights, that autograd keeps for the backward pass."""
    weights = {buffer.data_ptr() for buffer in distance.buffers()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        distance(reference, image)
    return sum(kept.values())


def test_a_reference_without_gradient_keeps_no_activations(distance: LPIPS) -> None:
    image = photos().requires_grad_()
    one_sided = saved_elements(distance, photos(), image)
    both_sided = saved_elements(distance, photos().requires_grad_(), image)
    assert saved_elements(distance, photos(), photos()) == 0
    assert one_sided < 0.75 * both_sided


def test_the_weights_are_frozen_and_in_no_checkpoint(distance: LPIPS) -> None:
    assert not list(distance.parameters())
    assert not distance.state_dict()
    assert len(dict(distance.named_buffers())) == len(VGG16.shapes()) + 2


def test_train_mode_changes_nothing(distance: LPIPS) -> None:
    trained = copy.deepcopy(distance).train()
    with torch.no_grad():
        left, right = photos(), photos().roll(1, dims=0)
        assert torch.equal(trained(left, right), distance(left, right))


def test_autocast_leaves_distances_float32_and_close(distance: LPIPS) -> None:
    left, right = photos(), photos().roll(1, dims=0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = distance(left.bfloat16(), right.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, distance(left, right), rtol=0.02, atol=0)


def test_using_it_before_loading_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="has no weights yet: call load_weights"):
        LPIPS()(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_weights_loaded_later_equal_weights_given_at_once(
    distance: LPIPS, real_weights: Weights
) -> None:
    later = LPIPS()
    later.load_weights(real_weights)
    with torch.no_grad():
        left, right = photos(), photos().roll(1, dims=0)
        assert torch.equal(later(left, right), distance(left, right))


def test_incomplete_weights_are_refused_by_name(real_weights: Weights) -> None:
    incomplete = {name: real_weights[name] for name in real_weights if name != "heads.4.weight"}
    with pytest.raises(
        ValueError, match=r"heads\.4\.weight is missing, expected: \(1, 512, 1, 1\)"
    ):
        LPIPS(incomplete)


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ((1, 3, 32, 32), (1, 3, 32, 16)),
        ((2, 3, 32, 32), (1, 3, 32, 32)),
        ((1, 3, 15, 32), (1, 3, 15, 32)),
        ((1, 1, 32, 32), (1, 1, 32, 32)),
        ((3, 32, 32), (3, 32, 32)),
    ],
)
def test_images_of_unfit_shapes_are_refused(
    distance: LPIPS, reference: tuple[int, ...], image: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="two batches of one shape"):
        distance(torch.zeros(reference), torch.zeros(image))
