"""LPIPS with VGG16: a perceptual distance between two images (Zhang et al. 2018, version 0.1).

Letters: B images, C channels, H by W pixels or positions.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqgan_train.losses.lpips_files import CONVOLUTION_CHANNELS, VGG16

SLICES = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
"""Indices of VGG16's convolutions in the slices that end in relu1_2, relu2_2, ..., relu5_3."""

MIN_SIDE_PX = 16
"""Smallest image side: four poolings halve it, and the last slice needs at least one position."""

# ImageNet's mean and standard deviation, as LPIPS rounds them for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class FrozenConvolution(nn.Module):
    """A 3 x 3 convolution and ReLU. Its weights are buffers outside the state dict."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer(
            "weight", torch.empty(out_channels, in_channels, 3, 3), persistent=False
        )
        self.register_buffer("bias", torch.empty(out_channels), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W), values 0 or more."""
        return functional.relu(
            functional.conv2d(features, self.weight, self.bias, padding=1), inplace=True
        )


class FrozenHead(nn.Module):
    """A weighted sum of squared differences over channels, averaged over positions.

    The published head has dropout before its weights; this one has none. In the original run of
    July 2021 it was probably active, because Lightning then set all modules to training mode.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.empty(1, channels, 1, 1), persistent=False)

    def forward(self, reference: Tensor, image: Tensor) -> Tensor:
        """Return the distances (B,) of features (B, C, H, W) of unit length, all float32."""
        # A convolution would run in half precision under autocast.
        return ((reference - image).square() * self.weight).sum(dim=1).mean(dim=(1, 2))


class LPIPS(nn.Module):
    """The LPIPS distance with VGG16, frozen.

    All weights are non-persistent buffers, so that optimizers, gradient synchronisation and
    checkpoints leave them out.
    """

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Build the network; without `weights`, call `load_weights` before use.

        Args:
            weights: the result of `find_lpips_weights(VGG16)`.
        """
        super().__init__()
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.convolutions = nn.ModuleList(
            FrozenConvolution(*channels) for channels in pairwise(CONVOLUTION_CHANNELS)
        )
        self.heads = nn.ModuleList(FrozenHead(count) for count in VGG16.head_channels)
        self.is_loaded = False
        if weights is not None:
            self.load_weights(weights)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights into the network, on its device.

        Args:
            weights: the result of `find_lpips_weights(VGG16)`.

        Raises:
            UserError: a weight is missing, unexpected or of another shape.
        """
        VGG16.check(weights)
        buffers = dict(self.named_buffers())
        for name, weight in weights.items():
            buffers[name].copy_(weight)
        self.is_loaded = True

    def forward(self, reference: Tensor, image: Tensor) -> Tensor:
        """Return the distance of each pair of images.

        Args:
            reference: (B, 3, H, W) in [-1, 1], any float dtype, H and W 16 or more.
            image: same shape and range as `reference`.

        Returns:
            (B,) float32, 0 for equal images. Under autocast the convolutions run in its dtype; all
            else is float32.

        Raises:
            RuntimeError: no weights were loaded.
            ValueError: the shapes differ, or are not those of RGB images of at least 16 x 16
                pixels.
        """
        self._check(reference, image)
        return self.distances(reference, image)

    def distances(self, reference: Tensor, image: Tensor) -> Tensor:
        """Compute the distances that `forward` returns, without its checks; can be compiled."""
        # Two passes instead of one over both batches: autograd then keeps no activations of a
        # reference that needs no gradient.
        reference_features = self.features(reference)
        image_features = self.features(image)
        distance = torch.zeros(len(image), device=image.device)
        for head, ours, theirs in zip(self.heads, reference_features, image_features, strict=True):
            distance = distance + head(_unit_length(ours), _unit_length(theirs))
        return distance

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the output (B, C, H', W') of each of VGG16's five slices."""
        features = (images.float() - self.shift) / self.scale
        outputs: list[Tensor] = []
        for indices in SLICES:
            if outputs:
                features = functional.max_pool2d(features, kernel_size=2)
            for index in indices:
                features = self.convolutions[index](features)
            outputs.append(features)
        return outputs

    def _check(self, reference: Tensor, image: Tensor) -> None:
        if not self.is_loaded:
            raise RuntimeError(
                "LPIPS has no weights yet: call load_weights(find_lpips_weights(VGG16)) first"
            )
        shape = tuple(image.shape)
        if (
            reference.shape != image.shape
            or len(shape) != 4
            or shape[1] != 3
            or min(shape[2:]) < MIN_SIDE_PX
        ):
            raise ValueError(
                "LPIPS needs two batches of one shape (B, 3, H, W), with H and W "
                f"{MIN_SIDE_PX} or more, found {tuple(reference.shape)} and {shape}"
            )


def _unit_length(features: Tensor) -> Tensor:
    """Scale each vector of features (B, C, H, W) to length 1, in float32; zeros stay zeros."""
    features = features.float()
    # The published code divides by sqrt(sum) + 1e-10, whose gradient at a vector of zeros is NaN
    # (PerceptualSimilarity issue 69). With the epsilon under the root it is finite. On photos and
    # constant images the lengths were 0.8 or more, so rounding drops the epsilon.
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-12)
