"""Download addresses to files. This program runs in a process of its own: `python -P fetch_url.py`.

The parent can kill it, with everything that it started, when anything in it hangs: a name server, a
library's retries, a command that waits for a password. It imports nothing of this package, so that
it starts in a fraction of a second.

It reads a JSON list of [address, command, file] from stdin; the command is null for an address that
fsspec opens. For each failure it writes a line of JSON to stdout: `address`, `error`, `absent`
(whether the source says that there is no such file), `refused` (whether a retry is useless) and
`retry_after` (seconds for which the source asks to be left alone).

A download by HTTP that broke off goes on where it ended, if the server says with an ETag or a date
that the file is still the same. `<file>.source` holds that mark while a download is incomplete.
"""

import asyncio
import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PARALLEL_DOWNLOADS = 16

NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError",
}  # fmt: skip
"""Exceptions for missing credentials, by name, because their libraries may be missing."""

NOT_FOUND = (404, 410)
REFUSED = (401, 403, 405, 407, 451)
"""HTTP statuses after which a retry is useless, unless the server says when to come again."""

COMMAND_UNUSABLE = (126, 127)
"""Exit codes of a shell that cannot start a command."""


class CommandError(Exception):
    """A command ended with an exit code other than 0."""


class UnusableCommandError(CommandError):
    """The shell cannot start a command."""


def main() -> None:
    """Download all files and write the failures to stdout."""
    # Started first, because a run that was killed cannot end its downloads any more.
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    requests = json.load(sys.stdin)
    with ThreadPoolExecutor(min(PARALLEL_DOWNLOADS, len(requests))) as pool:
        for failure in pool.map(fetch, requests):
            if failure is not None:
                sys.stdout.write(json.dumps(failure) + "\n")


def exit_with_parent(parent: int) -> None:
    """Wait until the parent process has ended; then kill this process and its children."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def fetch(request: tuple[str, str | None, str]) -> dict[str, Any] | None:
    """Download one file; return None, or the failure as it is written to stdout."""
    address, command, file = request
    try:
        if command is not None:
            run_command(command, file)
        elif address.startswith(("http://", "https://")):
            asyncio.run(fetch_by_http(address, file))
        else:
            fetch_with_fsspec(address, file)
    except Exception as error:  # any of fsspec's many libraries may raise anything
        # huggingface_hub raises a LocalEntryNotFoundError if its server does not answer.
        is_absent = isinstance(error, FileNotFoundError) and "Local" not in type(error).__name__
        # The message of some libraries is only the address.
        text = "not found" if is_absent and str(error) in ("", address) else str(error)
        return {
            "address": address,
            "error": text if is_absent else f"{type(error).__name__}: {error}",
            "absent": is_absent,
            "refused": is_absent or is_final(error),
            "retry_after": retry_after(error),
        }
    return None


def is_final(error: Exception) -> bool:
    """Return whether a retry is useless: permission, credentials, library or command is missing."""
    # fsspec raises ImportError for a missing library, and ValueError for an unknown protocol.
    is_known = isinstance(error, PermissionError | ImportError | UnusableCommandError)
    is_refused = getattr(error, "status", None) in REFUSED and not retry_after(error)
    names_reason = type(error).__name__ in NO_CREDENTIALS or "Protocol not known" in str(error)
    return is_known or is_refused or names_reason


def retry_after(error: Exception) -> float:
    """Return the seconds of an HTTP error's Retry-After, given as a number or date; else 0."""
    text = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    try:
        is_number = text.isdecimal()
        moment = 0 if is_number else email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return 0
    return float(text) if is_number else max(moment - time.time(), 0)


def run_command(command: str, file: str) -> None:
    """Write the standard output of a shell command to a file."""
    with open(file, "wb") as output:  # noqa: PTH123 - pathlib would be one import more
        finished = subprocess.run(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE
        )
    if finished.returncode:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        is_unusable = finished.returncode in COMMAND_UNUSABLE
        kind = UnusableCommandError if is_unusable else CommandError
        raise kind(f"exit code {finished.returncode}{last}")


def fetch_with_fsspec(address: str, file: str) -> None:
    """Download a file with the library that fsspec has for its address."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    system.get_file(path, file)


async def fetch_by_http(address: str, file: str) -> None:
    """Download a file, or the rest of one whose first part is there and unchanged at its source."""
    import aiohttp

    kept, size = read_source(file)
    # A position in an encoded file would not be the one in the file here.
    headers = {"Accept-Encoding": "identity"}
    if kept:
        headers |= {"Range": f"bytes={size}-", "If-Range": kept["mark"]}
    # aiohttp's defaults end any download after 5 minutes, and ignore proxies.
    no_limit = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=no_limit, trust_env=True) as session,
        session.get(address, headers=headers) as response,
    ):
        if response.status in NOT_FOUND:
            raise FileNotFoundError(address)
        rest = f"bytes {size}-{kept['length'] - 1}/{kept['length']}" if kept else ""
        is_rest = response.status == 206 and response.headers.get("Content-Range") == rest
        if not is_rest:
            if response.status in (200, 206, 416):  # the file has changed, or the note is wrong
                forget_source(file)
            response.raise_for_status()
            if response.status == 206:
                raise ConnectionError("the server sent another part than the one asked for")
            write_source(file, response.headers)
        with open(file, "ab" if is_rest else "wb") as output:  # noqa: PTH123 - as above
            async for piece in response.content.iter_any():
                output.write(piece)
    forget_source(file)


def read_source(file: str) -> tuple[dict[str, Any], int]:
    """Return what `write_source` noted about an incomplete file, or {}; and the file's size."""
    try:
        with open(f"{file}.source") as source:  # noqa: PTH123 - as above
            return json.load(source), os.stat(file).st_size  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return {}, 0


def write_source(file: str, headers: Mapping[str, str]) -> None:
    """Note what identifies a file at its source: a strong ETag or else its date, and its length."""
    tag = headers.get("ETag", "")
    mark = headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
    if mark and "Content-Length" in headers and "Content-Encoding" not in headers:
        with open(f"{file}.source", "w") as source:  # noqa: PTH123 - as above
            json.dump({"mark": mark, "length": int(headers["Content-Length"])}, source)


def forget_source(file: str) -> None:
    """Remove the note of `write_source`, so that the next download begins at the first byte."""
    if os.path.exists(f"{file}.source"):  # noqa: PTH110 - as above
        os.unlink(f"{file}.source")  # noqa: PTH108 - as above


if __name__ == "__main__":
    main()
