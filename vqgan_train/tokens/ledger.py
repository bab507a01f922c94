"""A folder of token files in the making, by one process or by many: what is done, what is left."""

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqgan_train.images.bad_images import PartReport
from vqgan_train.system.errors import TokenError
from vqgan_train.system.files import write_whole
from vqgan_train.system.jobs import require_same

LEDGER = ".vqgan_train"
"""Folder beside the token files. Hidden, so that who reads all files of the folder passes by it."""

JOB_FILE = "job.json"


def join_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Begin a job in a folder, go on with it, or help with it: other processes may do the same.

    Args:
        folder: where the files go; made if need be.
        job: all that they depend on, as plain values.

    Raises:
        PreparationError: the folder was begun with another job.
        TokenError: it holds something else, or cannot be written.
    """
    file = folder / LEDGER / JOB_FILE
    if folder.is_file():
        raise TokenError(f"output={folder} is a file. Name a folder.")
    # The folder is looked at first: whatever another process puts there comes after its job file.
    is_free = not folder.exists() or all(path.name == LEDGER for path in folder.iterdir())
    if not file.exists():
        if not is_free:
            raise TokenError(
                f"output={folder} holds files that no such command wrote. Name an empty or a new "
                "folder."
            )
        try:
            with write_whole(file) as partial:
                partial.write(json.dumps(dict(job), indent=2, ensure_ascii=False).encode())
        except OSError as error:
            raise TokenError(f"output={folder} cannot be written: {error.strerror}.") from error
    require_same(folder, file, job)


def report_done(folder: Path, part: str, report: PartReport) -> None:
    """Write down that a part is done; its file is there before."""
    with write_whole(_report_file(folder, part)) as partial:
        partial.write(json.dumps(asdict(report), ensure_ascii=False, indent=1).encode())


def reports(folder: Path, parts: Iterable[str]) -> dict[str, PartReport]:
    """The reports of those parts that are done."""
    files = {part: _report_file(folder, part) for part in parts}
    return {
        part: PartReport(**json.loads(file.read_bytes()))
        for part, file in files.items()
        if file.exists()
    }


def remove_leftovers(folder: Path, parts: Set[str]) -> None:
    """Remove what processes that were killed left of some parts."""
    for file in [*folder.glob("*.partial"), *(folder / LEDGER).glob("*.partial")]:
        if file.name.split(".")[0] in parts:
            file.unlink(missing_ok=True)


def _report_file(folder: Path, part: str) -> Path:
    return folder / LEDGER / f"{part}.json"
