"""The folder of an export: all of its files or none, and never another export's overwritten."""

import filecmp
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqgan_train.checkpoint.errors import ExportError


@contextmanager
def whole_export(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; its files move to `folder` when the block ends well.

    `folder` is made if need be. What else lies in it stays; a file that is there already, and the
    same to the byte, is left as it is.

    Raises:
        ExportError: `folder` is a file, or holds another file of the same name. Nothing is left.
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
    written = sorted(partial.iterdir())
    there = [file for file in written if (folder / file.name).exists()]
    other = [f.name for f in there if not filecmp.cmp(f, folder / f.name, shallow=False)]
    if other:
        raise ExportError(
            f"output is {folder}, which holds another {' and '.join(other)}. Nothing was written. "
            "Give another folder, or remove what is there."
        )
    folder.mkdir(exist_ok=True)
    for file in written:
        if file not in there:
            file.replace(folder / file.name)
