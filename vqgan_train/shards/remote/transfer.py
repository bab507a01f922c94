"""Download files in a separate process, which is killed when it stalls."""

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

from vqgan_train.shards.remote import fetch_url
from vqgan_train.system.addresses import PIPE

ACCESS_ADVICE = {
    "s3": "s3:// needs pip install 'vqgan_train[s3]' and credentials: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, a profile in ~/.aws (AWS_PROFILE), or the machine's role. Another "
    "server than Amazon's: AWS_ENDPOINT_URL. A public bucket: FSSPEC_S3_ANON=true.",
    "gs": "gs:// needs pip install 'vqgan_train[gcs]' and credentials: "
    "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's "
    "account. A public bucket: FSSPEC_GS_TOKEN=anon.",
    "hf": "hf:// needs a token that may read the repository: HF_TOKEN or `hf auth login`.",
}
"""What each protocol requires; shown when a source refuses a request."""

OTHER_ADVICE = "Check the address, and the credentials and the library that fsspec needs for it."

MIN_BYTES_PER_SECOND = 2**14
"""A slower download counts as stalled: a shard of 300 MB would take 5 hours."""

STAT_BLOCK_BYTES = 512
"""Unit of `st_blocks`, the space that a file has on its disk."""

POLL_SECONDS = 0.05


class TransferError(OSError):
    """A download failed; the message says why, often in the words of the source."""

    retry_after = 0.0
    """Seconds for which the source asks to be left alone."""


class FinalTransferError(TransferError):
    """A download failed, and a retry would fail in the same way."""


def fetch_file(address: str, file: Path, stall_seconds: float, on_poll: Callable[[], None]) -> None:
    """Download one file.

    Args:
        address: pipe:COMMAND, or an address that fsspec opens.
        file: target; overwritten, or completed where an earlier call broke off (see `fetch_url`).
        stall_seconds: time in which MIN_BYTES_PER_SECOND must arrive on average.
        on_poll: called many times per second; its exceptions end the download.

    Raises:
        FinalTransferError: there is no such file, the source refused the request, or credentials
            or a library are missing.
        TransferError: the download failed or stalled, or the source reported it as incomplete.
    """

    def progress() -> float:
        on_poll()
        try:
            stat = file.stat()
        except FileNotFoundError:
            return 0
        # Some libraries first give a file its full size, and then fill it block by block.
        return stat.st_size + stat.st_blocks * STAT_BLOCK_BYTES

    min_progress = stall_seconds * MIN_BYTES_PER_SECOND
    for failure in _fetch([(address, file)], progress, min_progress, stall_seconds):
        if failure["absent"]:
            raise FinalTransferError(failure["error"])
        if failure["refused"]:
            raise FinalTransferError(f"{failure['error'].rstrip('.')}. {access_advice(address)}")
        error = TransferError(failure["error"])
        error.retry_after = failure["retry_after"]
        raise error


def access_advice(address: str) -> str:
    """Return advice on what to check when a source refuses a request."""
    if address.startswith(PIPE):
        return "Check the command."
    return ACCESS_ADVICE.get(address.partition("://")[0], OTHER_ADVICE)


def fetch_small_files(
    pairs: Sequence[tuple[str, Path]], stall_seconds: float
) -> list[dict[str, Any]]:
    """Download many small files into existing folders.

    Args:
        pairs: address and target of each file.
        stall_seconds: time in which at least one more file must arrive.

    Returns:
        The failures, with the fields that `fetch_url` lists.

    Raises:
        TransferError: the downloading process stalled or crashed; some files may have arrived.
    """

    def progress() -> float:
        return sum(file.exists() for _, file in pairs)

    return _fetch(pairs, progress, 1, stall_seconds)


def _fetch(
    pairs: Sequence[tuple[str, Path]],
    progress: Callable[[], float],
    min_progress: float,
    stall_seconds: float,
) -> list[dict[str, Any]]:
    requests = [
        [address, address.removeprefix(PIPE) if address.startswith(PIPE) else None, str(file)]
        for address, file in pairs
    ]
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(json.dumps(requests).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            # -P, because modules in this folder must not shadow libraries of the same name.
            [sys.executable, "-P", fetch_url.__file__],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            _wait(process, progress, min_progress, stall_seconds)
        finally:
            # Kill its children, too. Before `wait`, which frees the process id for reuse.
            os.killpg(process.pid, signal.SIGKILL)
            exit_code = process.wait()
        if exit_code != 0:
            raise TransferError(
                f"the downloading process crashed (exit code {exit_code}): {_last_line(stderr)}"
            )
        stdout.seek(0)
        return [json.loads(line) for line in stdout]


def _wait(
    process: subprocess.Popen[bytes],
    progress: Callable[[], float],
    min_progress: float,
    stall_seconds: float,
) -> None:
    """Wait until the process has ended.

    Raises:
        TransferError: `progress` grew by less than `min_progress` in `stall_seconds`.
    """
    reached, since = progress(), time.monotonic()
    # WNOWAIT keeps the ended process, so that its process group can still be killed.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(POLL_SECONDS)
        now = progress()
        if abs(now - reached) >= min_progress:  # less: a file that cannot be completed begins anew
            reached, since = now, time.monotonic()
        elif time.monotonic() - since > stall_seconds:
            raise TransferError(f"stalled: next to nothing arrived in {stall_seconds:g} s")


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"
