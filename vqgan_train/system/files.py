"""Write files completely or not at all, identify them by hashes, and cache them."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from vqgan_train.system.locks import file_lock

PARTIAL = ".partial"
"""Suffix of files that are being written; a killed process leaves them behind."""

PROBE_BYTES = 2**16
"""Bytes that `try_writing` writes: more than the last free blocks of a full disk hold."""


@contextmanager
def write_atomically(path: Path, partial: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when the block ends without an error.

    The folder is created if it does not exist.

    Args:
        path: the file; an existing one is replaced.
        partial: path of the file until then. None: a random one next to `path`, so that several
            processes can write the same file.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's names: only their owner may read them, and runs are shared on a cluster.
    partial = partial or path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the half-written files of killed processes from a folder and its subfolders."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def try_writing(folder: Path) -> None:
    """Write a small file into a folder and remove it again; the folder is created if needed.

    Trying is the only reliable test of permissions, quotas and read-only disks.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{secrets.token_hex(4)}{PARTIAL}"
    try:
        with probe.open("xb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # network disks reserve space only now
    finally:
        probe.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_signature(path: Path) -> tuple[str, int, int]:
    """Return a file's absolute path, size in bytes and modification time in nanoseconds.

    Compared with an earlier signature, it shows without reading the file whether it has changed.
    """
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def fingerprint(values: Iterable[object]) -> str:
    """Hash the `repr` of all values, in order, into one text of 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(repr(value).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def cache_folder(name: str) -> Path:
    """Return the cache folder of one kind of file, which may not exist yet.

    It is vqgan_train/<name> in $XDG_CACHE_HOME, or in ~/.cache if that variable is not set.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqgan_train" / name


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Let one process fill a cache while others wait; no lock if the folder cannot be written.

    Nobody waits on a file system without locks either: files of a cache are written atomically, so
    that processes that do the same work disturb nobody.

    Args:
        name: folder of the cache, or FOLDER/ENTRY to lock one entry.
    """
    file = cache_folder(name).with_suffix(".lock")
    with ExitStack() as held:
        with suppress(OSError):  # a cache that cannot be written needs no lock
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(file, f"filling {file.with_suffix('')}"))
        yield
