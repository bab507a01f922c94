"""Fetch a checkpoint from a path, a URL, the Hugging Face Hub or a W&B artifact."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urldefrag

from vqgan_train.checkpoint.file_kind import file_kind
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
"""Maximum wait for a server's next bytes."""

CHUNK_BYTES = 2**20


def fetch_checkpoint(source: str, setting: str) -> Path:
    """Return the local file of a checkpoint; download it if it is not in the cache.

    Cached files, except W&B's, need no network. One process per machine downloads; others wait.

    Args:
        source: an address as in `FORMS`. A URL may end in `#sha256=HEX`, which is then checked.
        setting: name of the setting that gave `source`, for messages.

    Returns:
        Path of an existing file; its content is not checked.

    Raises:
        CheckpointError: `source` has an unknown form, is a folder or does not exist, the download
            failed, or a URL gave no checkpoint (an HTML page, for example).
    """
    scheme = source.partition("://")[0] + "://" if "://" in source else ""
    if not scheme:
        return _require_file(Path(source).expanduser(), setting)
    fetch = _FETCHERS.get(scheme)
    if fetch is None:
        raise CheckpointError(f"{setting}={source} has an unknown form. Give {FORMS}.")
    with cache_lock(CACHE):
        try:
            path = fetch(source)
        # Each client has its own exceptions for a missing network, file or permission.
        except Exception as error:
            raise CheckpointError(f"{setting}={source} could not be fetched: {error}") from error
    log.info("%s=%s is at %s", setting, source, path)
    return path


def artifact_name(source: str | None) -> str | None:
    """Return ENTITY/PROJECT/ARTIFACT:ALIAS of a W&B address; None for any other source."""
    if source is None or not source.startswith(ARTIFACT_SCHEME):
        return None
    return source.removeprefix(ARTIFACT_SCHEME)


def _require_file(path: Path, setting: str) -> Path:
    last = path / "checkpoints" / "last.ckpt"
    if last.is_file():
        raise CheckpointError(f"{setting}={path} is a run's folder. Give its checkpoint: {last}.")
    if not path.is_file():
        problem = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"{setting}={path} {problem}. Relative paths start at {Path.cwd()}. Check the path, or "
            "start the run that writes this checkpoint first."
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
        file.unlink()  # else the next call would find the HTML page in the cache
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
    artifact.verify(str(folder))  # download() compares no checksums
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if len(files) != 1:
        raise ValueError(f"it must hold one file, but holds {[file.name for file in files]}")
    return files[0]


_FETCHERS: dict[str, Callable[[str], Path]] = {
    "http://": _from_url,
    "https://": _from_url,
    HUB_SCHEME: _from_hub,
    ARTIFACT_SCHEME: _from_artifact,
}
