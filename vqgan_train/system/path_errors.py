"""Explain the OSErrors that the user can fix, such as those of a path in the settings."""

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqgan_train.system.files import cache_folder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and a used-up quota: never a defect of ours, whatever the file."""

PATTERN = re.compile(r"[*?\[{]")
"""Character that makes a path a glob or brace pattern."""


def explain_path_error(error: OSError, settings: Mapping[str, Any]) -> str | None:
    """Describe an error that the user can fix; None if it may be a defect of ours.

    Args:
        error: may name no file: errors of writing to an open file do not.
        settings: all settings of the command, as nested plain values.
    """
    reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    if error.errno == errno.EMFILE:
        return (
            f"This process has too many open files ({reason}). Raise the limit "
            "with ulimit -n 65536, or lower num_workers (in training data.num_workers)."
        )
    for setting, text in _texts(settings):
        if is_about(error, _folder_of_pattern(text)):
            return (
                f"{setting}={text}: {reason}. Check that the path is right, that its disk is there "
                "and has room, and that you may read and write it."
            )
    if is_about(error, cache_folder("")):
        return f"The cache cannot be used ({reason}). Make room, or set XDG_CACHE_HOME elsewhere."
    if error.errno in DISK_FULL:
        return f"A disk is full ({reason}). Make room, and give the same command again."
    return None


def is_about(error: OSError, path: Path) -> bool:
    """Return whether an error names a path, something inside it, or a folder that contains it.

    Making a folder with its parents fails with the name of the first parent that cannot be made.
    """
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str)]
    files = [Path(name).absolute() for name in names]
    return any(
        file.is_relative_to(path.absolute()) or path.absolute().is_relative_to(file)
        for file in files
    )


def _folder_of_pattern(text: str) -> Path:
    """Return a plain path as it is; for a pattern, the folder that holds all its matches."""
    start = PATTERN.split(text, maxsplit=1)[0]
    return Path(text) if start == text else Path(f"{start}_").parent


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested settings that is not empty, after its setting's dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value, name)
    elif isinstance(node, str) and node:
        yield name, node
