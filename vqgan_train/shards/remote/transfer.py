"""What a source wants before it gives anything: the libraries' own places for it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from vqgan_train.shards.naming import PIPE
from vqgan_train.shards.remote import fetch_url

NEEDS = {
    "s3": "s3:// needs pip install 'vqgan_train[s3]' and credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (AWS_PROFILE), or the machine's role. Another "
    "server than Amazon's: AWS_ENDPOINT_URL. A public bucket: FSSPEC_S3_ANON=true.",
    "gs": "gs:// needs pip install 'vqgan_train[gcs]' and credentials: "
    "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's "
    "account. A public bucket: FSSPEC_GS_TOKEN=anon.",
    "hf": "hf:// needs a token that may read the repository: HF_TOKEN or `hf auth login`.",
}
"""By protocol."""

OTHERS = "Check the address, and the credentials and the library that fsspec wants for it."


def needs(address: str) -> str:
    """What to do where a source refuses."""
    if address.startswith(PIPE):
        return "Check the command."
    return NEEDS.get(address.partition("://")[0], OTHERS)


LEAST_BYTES_PER_SECOND = 2**14
"""What comes slower does not come: a shard of 300 MB would take 5 hours."""

BLOCK_BYTES = 512
"""The unit of `st_blocks`."""

LOOK_EVERY_SECONDS = 0.05


class TransferError(OSError):
    """A file could not be brought here; the message says what the source said."""


class StallError(TransferError):
    """Nothing came for a while."""


class RefusedError(TransferError):
    """The source, or the library for it, will say no the next time, too."""


class EndlessError(TransferError):
    """More came than can be kept; trying again would only be more of it."""


def fetch_file(
    address: str, file: Path, stall_seconds: float, each_look: Callable[[], None]
) -> None:
    """Bring one file here.

    Args:
        address: pipe:COMMAND, or what fsspec opens.
        file: where to; what is there is overwritten.
        stall_seconds: how long to bear with a source that sends nothing, or next to nothing.
        each_look: called many times a second; what it raises ends the transfer.

    Raises:
        TransferError: it did not come whole, as far as the source tells.
    """

    def progress() -> float:
        each_look()
        try:
            stat = file.stat()
        except FileNotFoundError:
            return 0
        # Some libraries make a file as long as it will be, and then fill it.
        return stat.st_size + stat.st_blocks * BLOCK_BYTES

    least = stall_seconds * LEAST_BYTES_PER_SECOND
    for failure in _fetch([(address, file)], progress, least, stall_seconds):
        if failure["refused"]:
            raise RefusedError(f"{failure['error'].rstrip('.')}. {needs(address)}")
        raise TransferError(failure["error"])


def fetch_small_files(
    pairs: Sequence[tuple[str, Path]], stall_seconds: float
) -> list[dict[str, Any]]:
    """Bring many small files here, all into folders that are there.

    Args:
        pairs: address and file.
        stall_seconds: how long to bear with not one of them coming.

    Returns:
        Those that did not come: `address`, `error`, `absent`, `refused`.

    Raises:
        StallError: none came for a while; some may be there.
    """

    def progress() -> float:
        return sum(file.exists() for _, file in pairs)

    return _fetch(pairs, progress, 1, stall_seconds)


def _fetch(
    pairs: Sequence[tuple[str, Path]],
    progress: Callable[[], float],
    least: float,
    stall_seconds: float,
) -> list[dict[str, Any]]:
    wanted = json.dumps([[address, str(file)] for address, file in pairs]).encode()
    with TemporaryFile() as asked, TemporaryFile() as said, TemporaryFile() as complained:
        asked.write(wanted)
        asked.seek(0)
        process = subprocess.Popen(
            # -P: our modules beside it must not stand in for others' of the same name
            [sys.executable, "-P", fetch_url.__file__],
            stdin=asked,
            stdout=said,
            stderr=complained,
            start_new_session=True,
        )
        try:
            _wait(process, progress, least, stall_seconds)
        finally:
            end = _end(process)
        if end != 0:
            raise TransferError(f"the process that fetches died ({end}): {_last_line(complained)}")
        said.seek(0)
        return [json.loads(line) for line in said]


def _wait(
    process: subprocess.Popen[bytes],
    progress: Callable[[], float],
    least: float,
    stall_seconds: float,
) -> None:
    """Return when the process has ended.

    Raises:
        StallError: there was less than `least` of progress in `stall_seconds`.
    """
    reached, since = progress(), time.monotonic()
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(LOOK_EVERY_SECONDS)
        now = progress()
        if now - reached >= least:
            reached, since = now, time.monotonic()
        elif time.monotonic() - since > stall_seconds:
            raise StallError(f"stalled: nothing, or next to nothing, for {stall_seconds:g} s")


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill what is left of a process and its children; how it had ended by itself."""
    # Before it is waited for, so that its number cannot be another's yet.
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"
