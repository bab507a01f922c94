"""The ledger of an output folder: its job, and a report of each chunk that is done.

Several processes may write to one folder at the same time.
"""

import json
from collections.abc import Iterable, Set
from dataclasses import asdict
from pathlib import Path

from vqgan_train.images.bad_images import ChunkReport
from vqgan_train.system.files import PARTIAL, write_atomically
from vqgan_train.system.job_file import JOB_FILE

LEDGER = ".vqgan_train"
"""Folder next to the token files; hidden, so that programs that read all files pass over it."""

LEDGER_JOB_FILE = f"{LEDGER}/{JOB_FILE}"
"""Path of the job file in the output folder."""


def write_report(folder: Path, chunk: str, report: ChunkReport) -> None:
    """Record that a chunk is done; call it after its token file was written."""
    with write_atomically(_report_file(folder, chunk)) as partial:
        partial.write(json.dumps(asdict(report), ensure_ascii=False, indent=1).encode())


def read_reports(folder: Path, chunks: Iterable[str]) -> dict[str, ChunkReport]:
    """Read the reports, by chunk, of those chunks that are done."""
    files = {chunk: _report_file(folder, chunk) for chunk in chunks}
    return {
        chunk: ChunkReport(**json.loads(file.read_bytes()))
        for chunk, file in files.items()
        if file.exists()
    }


def remove_leftovers(folder: Path, chunks: Set[str]) -> None:
    """Remove half-written files of these chunks, which killed processes have left."""
    for file in [*folder.glob(f"*{PARTIAL}"), *(folder / LEDGER).glob(f"*{PARTIAL}")]:
        if file.name.split(".")[0] in chunks:
            file.unlink(missing_ok=True)


def _report_file(folder: Path, chunk: str) -> Path:
    return folder / LEDGER / f"{chunk}.json"
