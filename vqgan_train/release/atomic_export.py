"""The output folder of an export, which gets all of the export's files or none of them."""

import filecmp
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqgan_train.system.errors import ExportError


@contextmanager
def atomic_export(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; move its files to `folder` if the block succeeds.

    `folder` is created if missing, and files in subfolders are moved too. Other files in `folder`
    stay. An existing file with the same name and content is left alone. If the block raises,
    `folder` is unchanged.

    Raises:
        ExportError: `folder` is a file, or holds a different file of the same name. No file is
            moved.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"output is {folder}, which is a file. Give a folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        _move(partial, folder)
    finally:
        shutil.rmtree(partial)


def _move(partial: Path, folder: Path) -> None:
    written = {file.relative_to(partial): file for file in partial.rglob("*") if file.is_file()}
    existing = [name for name in sorted(written) if (folder / name).exists()]
    different = [
        str(name)
        for name in existing
        if not filecmp.cmp(written[name], folder / name, shallow=False)
    ]
    if different:
        raise ExportError(
            f"output is {folder}, which holds different files named {', '.join(different)}. "
            "Nothing was written. Give another folder, or remove these files."
        )
    for name in sorted(written.keys() - existing):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        written[name].replace(folder / name)
