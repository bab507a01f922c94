"""What an output folder is being made of: a killed job goes on, another one is refused."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vqgan_train.cache import write_whole
from vqgan_train.preparation.errors import PreparationError

JOB_FILE = "job.json"


def open_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Begin a job in a folder, or go on with the same one.

    Args:
        folder: where its results are; made if need be.
        job: all that the results depend on, as plain values.

    Raises:
        PreparationError: the folder has the results of another job, or of something else.
    """
    require_free_or_same(folder, job)
    for leftover in folder.glob("**/*.partial"):  # of a process that was killed
        leftover.unlink()
    with write_whole(folder / JOB_FILE) as partial:
        partial.write(json.dumps(dict(job), indent=2, ensure_ascii=False).encode())


def require_free_or_same(folder: Path, job: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else, before hours are spent.

    Raises:
        PreparationError: it does.
    """
    file = folder / JOB_FILE
    if not file.exists():
        _require_free(folder)
        return
    require_same(folder, file, job)


def require_same(folder: Path, file: Path, job: Mapping[str, Any]) -> None:
    """Refuse to go on with another job than the one that a folder's job file names.

    Raises:
        PreparationError: it was another one.
    """
    before = json.loads(file.read_text())
    now = json.loads(json.dumps(dict(job)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise PreparationError(
            f"{folder} was begun with other settings or files: "
            + "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
            + ". To go on, give what was given then; else name another folder, or empty this one."
        )


def _require_free(folder: Path) -> None:
    if folder.is_file():
        raise PreparationError(f"{folder} is a file. Name a folder for the results.")
    if folder.is_dir() and any(folder.iterdir()):
        raise PreparationError(
            f"{folder} holds files that no such job began. Name an empty or a new folder."
        )


def fingerprint(parts: Iterable[object]) -> str:
    """Sum up many values in 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """A file's path, size and time of change: what tells that it is another one."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns
