"""A program of its own that brings addresses to files: `python -P fetch_url.py`, pairs on stdin.

Apart from the run, because whatever hangs in here (a name server, a library's retry, a command that
waits for a password) can then be ended from outside, with everything that it started. It imports
nothing of ours, so that it begins in a fraction of a second.

Reads a JSON list of [address, file] from stdin; says what could not be had on stdout, a JSON object
a line: `address`, `error`, `absent`, whether the source says that there is no such thing, and
`refused`, whether asking again is of no use.
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

AT_ONCE = 16
PIPE = "pipe:"

NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError",
}  # fmt: skip
"""Exceptions of libraries that may not be here."""


class CommandError(Exception):
    """A command did not end well."""


def main() -> None:
    """Fetch all, some at a time."""
    # Before anything else: a run that was killed cannot end its downloads any more.
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    pairs = json.load(sys.stdin)
    with ThreadPoolExecutor(min(AT_ONCE, len(pairs))) as pool:
        for failure in pool.map(fetch, pairs):
            if failure is not None:
                sys.stdout.write(json.dumps(failure) + "\n")


def end_with(parent: int) -> None:
    """End this process and its children when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def fetch(pair: tuple[str, str]) -> dict[str, Any] | None:
    """Fetch one; what went wrong, or None."""
    address, file = pair
    try:
        if address.startswith(PIPE):
            run_command(address.removeprefix(PIPE), file)
        else:
            fetch_with_fsspec(address, file)
    except FileNotFoundError as error:
        return {
            "address": address,
            # Some libraries say no more than which address it is.
            "error": "not found" if str(error) in ("", address) else str(error),
            "absent": True,
            "refused": False,
        }
    except Exception as error:  # of any of fsspec's many libraries
        text = f"{type(error).__name__}: {error}"
        return {"address": address, "error": text, "absent": False, "refused": is_final(error)}
    return None


def is_final(error: Exception) -> bool:
    """Whether it will be the same the next time: no right, no credentials, no library."""
    # What the library for an address lacks is an ImportError, an unknown address a ValueError.
    is_ours = isinstance(error, PermissionError | ImportError)
    return is_ours or type(error).__name__ in NO_CREDENTIALS or "Protocol not known" in str(error)


def run_command(command: str, file: str) -> None:
    """Let a shell write a file."""
    with open(file, "wb") as written:  # noqa: PTH123 - pathlib would be one import more
        ended = subprocess.run(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.PIPE
        )
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        raise CommandError(f"exit code {ended.returncode}{last}")


def fetch_with_fsspec(address: str, file: str) -> None:
    """Let the library that fsspec has for the address write a file."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if address.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp ends what takes 5 minutes, however well it goes; and it ignores proxies.
        no_limit = aiohttp.ClientTimeout(total=None)
        options = {"client_kwargs": {"timeout": no_limit, "trust_env": True}}
    system, path = url_to_fs(address, **options)
    system.get_file(path, file)


if __name__ == "__main__":
    main()
