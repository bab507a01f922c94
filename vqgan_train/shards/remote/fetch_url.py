"""Download addresses to files. This program runs in a process of its own: `python -P fetch_url.py`.

The parent can kill it, with everything that it started, when anything in it hangs: a name server, a
library's retries, a command that waits for a password. It imports nothing of this package, so that
it starts in a fraction of a second.

It reads a JSON list of [address, command, file] from stdin; the command is null for an address that
fsspec opens. For each failure it writes a line of JSON to stdout: `address`, `error`, `absent`
(whether the source says that there is no such file) and `refused` (whether a retry is useless).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PARALLEL_DOWNLOADS = 16

NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError",
}  # fmt: skip
"""Exceptions for missing credentials, by name, because their libraries may be missing."""


class CommandError(Exception):
    """A command ended with an exit code other than 0."""


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
        else:
            fetch_with_fsspec(address, file)
    except FileNotFoundError as error:
        return {
            "address": address,
            # The message of some libraries is only the address.
            "error": "not found" if str(error) in ("", address) else str(error),
            "absent": True,
            "refused": False,
        }
    except Exception as error:  # any of fsspec's many libraries may raise anything
        text = f"{type(error).__name__}: {error}"
        return {"address": address, "error": text, "absent": False, "refused": is_final(error)}
    return None


def is_final(error: Exception) -> bool:
    """Return whether a retry is useless: permission, credentials or a library is missing."""
    # fsspec raises ImportError for a missing library, and ValueError for an unknown protocol.
    is_known = isinstance(error, PermissionError | ImportError)
    return is_known or type(error).__name__ in NO_CREDENTIALS or "Protocol not known" in str(error)


def run_command(command: str, file: str) -> None:
    """Write the standard output of a shell command to a file."""
    with open(file, "wb") as output:  # noqa: PTH123 - pathlib would be one import more
        finished = subprocess.run(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE
        )
    if finished.returncode:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        raise CommandError(f"exit code {finished.returncode}{last}")


def fetch_with_fsspec(address: str, file: str) -> None:
    """Download a file with the library that fsspec has for its address."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if address.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp's defaults end any download after 5 minutes, and ignore proxies.
        no_limit = aiohttp.ClientTimeout(total=None)
        options = {"client_kwargs": {"timeout": no_limit, "trust_env": True}}
    system, path = url_to_fs(address, **options)
    system.get_file(path, file)


if __name__ == "__main__":
    main()
