"""Where a checkpoint comes from: a path, a URL, Hugging Face's hub or a W&B artifact."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urldefrag

from vqgan_train.checkpoint import file_kind
from vqgan_train.system.errors import CheckpointError
from vqgan_train.system.files import cache_folder, cache_lock

log = logging.getLogger(__name__)

CACHE = "checkpoints"
ARTIFACT_SCHEME = "wandb://"
HUB_SCHEME = "hf://"
FORMS = (
    "a path, https://HOST/FILE, hf://USER/REPO[@REVISION]/FILE or "
    "wandb://ENTITY/PROJECT/ARTIFACT:ALIAS"
)
HUB_FILE = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
DOWNLOAD_TIMEOUT_SECONDS = 30
"""Longest silence of a server."""

CHUNK_BYTES = 2**20


def fetch_checkpoint(source: str, setting: str) -> Path:
    """Make sure that a checkpoint is on this machine.

    What was downloaded once is found in the cache, without a network too; one process a machine
    downloads while the others wait.

    Args:
        source: one of `FORMS`. A URL may end in `#sha256=HEX`, which is then checked.
        setting: where the source was given, for the message.

    Returns:
        The file, which is there, though it may hold anything.

    Raises:
        CheckpointError: it cannot be had, or is an HTML page or the like.
    """
    scheme = source.partition("://")[0] + "://" if "://" in source else ""
    if not scheme:
        return _require_file(Path(source).expanduser(), setting)
    fetch = _FETCHERS.get(scheme)
    if fetch is None:
        raise CheckpointError(f"{setting}={source} is none of: {FORMS}.")
    with cache_lock(CACHE):
        try:
            path = fetch(source)
        # Each client has its own errors for no network, no such file and no rights.
        except Exception as error:
            raise CheckpointError(f"{setting}={source} could not be fetched: {error}") from error
    log.info("%s=%s is at %s", setting, source, path)
    return path


def artifact_name(source: str | None) -> str | None:
    """The W&B name, ENTITY/PROJECT/ARTIFACT:ALIAS, of a source that is an artifact."""
    is_artifact = source is not None and source.startswith(ARTIFACT_SCHEME)
    return source.removeprefix(ARTIFACT_SCHEME) if source is not None and is_artifact else None


def _require_file(path: Path, setting: str) -> Path:
    inside = path / "checkpoints" / "last.ckpt"
    if inside.is_file():
        raise CheckpointError(f"{setting}={path} is a run's folder. Give its checkpoint: {inside}.")
    if not path.is_file():
        found = "a folder, not a checkpoint" if path.is_dir() else "not there"
        raise CheckpointError(
            f"{setting}={path} is {found}. Check the path, which starts at {Path.cwd()}, or make "
            "the run first that writes it."
        )
    return path


def _from_url(source: str) -> Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    url, fragment = urldefrag(source)
    known_hash = fragment.replace("=", ":", 1) or None
    file = Path(
        pooch.retrieve(
            url,
            known_hash,
            path=cache_folder(CACHE),
            downloader=pooch.HTTPDownloader(
                progressbar=sys.stderr.isatty(),
                chunk_size=CHUNK_BYTES,
                timeout=DOWNLOAD_TIMEOUT_SECONDS,
            ),
        )
    )
    try:
        file_kind(file)
    except ValueError:
        file.unlink()  # the next try shall not find a login page in the cache
        raise
    return file


def _from_hub(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    match = HUB_FILE.fullmatch(source)
    if not match:
        raise ValueError("it should read hf://USER/REPO[@REVISION]/FILE")
    return Path(hf_hub_download(match["repository"], match["file"], revision=match["revision"]))


def _from_artifact(source: str) -> Path:
    import wandb

    artifact = wandb.Api().artifact(source.removeprefix(ARTIFACT_SCHEME))
    folder = Path(artifact.download(root=str(cache_folder(CACHE) / artifact.digest)))
    artifact.verify(str(folder))  # to download compares no checksums
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if len(files) != 1:
        raise ValueError(f"it holds {[file.name for file in files]}, not one checkpoint")
    return files[0]


_FETCHERS: dict[str, Callable[[str], Path]] = {
    "http://": _from_url,
    "https://": _from_url,
    HUB_SCHEME: _from_hub,
    ARTIFACT_SCHEME: _from_artifact,
}
