"""The job file of an output folder: the same job resumes, another one is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqgan_train.system.addresses import redact_all
from vqgan_train.system.errors import UserError, as_typed
from vqgan_train.system.files import remove_partial, write_atomically

JOB_FILE = "job.json"


def open_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Start or resume a job in a folder, and remove the half-written files of killed processes.

    Args:
        folder: folder of the results, created if it does not exist.
        job: everything that the results depend on, as plain values.

    Raises:
        UserError: the folder is a file, holds the results of another job, or other files.
    """
    join_job(folder, job, JOB_FILE)
    remove_partial(folder)


def require_free_or_same(folder: Path, job: Mapping[str, Any], job_file: str = JOB_FILE) -> None:
    """Refuse a folder that holds another job or other files.

    Args:
        folder: folder of the results, which may not exist yet.
        job: as in `open_job`.
        job_file: path of the job file in the folder.

    Raises:
        UserError: the folder is a file, holds the results of another job, or other files.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file. Name a folder for the results.")
    # Listed before the job file is looked for, which other processes of the job write first.
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder / job_file).exists():
        _require_same(folder, folder / job_file, job)
    elif names - {Path(job_file).parts[0]}:
        raise UserError(
            f"{folder} holds files, but no {job_file}: this command did not begin it. Name an "
            "empty or a new folder."
        )


def join_job(folder: Path, job: Mapping[str, Any], job_file: str) -> None:
    """Start a job in a folder, resume it, or join other processes that work on it.

    Arguments and errors are those of `require_free_or_same`.
    """
    require_free_or_same(folder, job, job_file)
    if not (folder / job_file).exists():
        with write_atomically(folder / job_file) as file:
            file.write(json.dumps(redact_all(dict(job)), indent=2, ensure_ascii=False).encode())
        _require_same(folder, folder / job_file, job)  # another process may have written it, too


def _require_same(folder: Path, file: Path, job: Mapping[str, Any]) -> None:
    before = json.loads(file.read_text())
    before, now = redact_all(before), redact_all(json.loads(json.dumps(dict(job))))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise UserError(
            f"{folder} was begun with other settings or files: "
            + "; ".join(
                f"{key} was {as_typed(before.get(key))}, is {as_typed(now.get(key))}"
                for key in changed
            )
            + ". To resume, restore those values; otherwise name another folder, or empty this one."
        )
