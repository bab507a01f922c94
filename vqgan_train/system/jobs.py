"""The job file of an output folder: the same job resumes, another one is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqgan_train.system.errors import UserError
from vqgan_train.system.files import remove_partial, write_atomically

JOB_FILE = "job.json"


def open_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Start a job in a folder, or resume it.

    Args:
        folder: folder of the results, created if it does not exist.
        job: everything that the results depend on, as plain values.

    Raises:
        UserError: the folder holds the results of another job, or other files.
    """
    require_free_or_same(folder, job)
    remove_partial(folder)
    write_job(folder / JOB_FILE, job)


def write_job(file: Path, job: Mapping[str, Any]) -> None:
    """Write a job file.

    Raises:
        OSError: the file cannot be written.
    """
    with write_atomically(file) as partial:
        partial.write(json.dumps(dict(job), indent=2, ensure_ascii=False).encode())


def require_free_or_same(folder: Path, job: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else, before hours are spent.

    Raises:
        UserError: the folder is a file, holds the results of another job, or other files.
    """
    file = folder / JOB_FILE
    if file.exists():
        require_same(folder, file, job)
    elif folder.is_file():
        raise UserError(f"{folder} is a file. Name a folder for the results.")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds files that no such job began. Name an empty or a new folder."
        )


def require_same(folder: Path, file: Path, job: Mapping[str, Any]) -> None:
    """Refuse to resume a job whose values differ from those in the folder's job file.

    Raises:
        UserError: a value of the job has changed; the message names all that have.
    """
    before = json.loads(file.read_text())
    now = json.loads(json.dumps(dict(job)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise UserError(
            f"{folder} was begun with other settings or files: "
            + "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)
            + ". To resume, restore those values; otherwise name another folder, or empty this one."
        )
