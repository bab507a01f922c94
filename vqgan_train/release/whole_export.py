"""The folder of an export: all of its files or none, and never another export's overwritten."""

import filecmp
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqgan_train.system.errors import ExportError
from vqgan_train.system.files import PARTIAL


@contextmanager
def whole_export(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; its files move to `folder` when the block ends well.

    Those in folders inside of it too.

    `folder` is made if need be. What else lies in it stays; a file that is there already, and the
    same to the byte, is left as it is.

    Raises:
        ExportError: `folder` is a file, or holds another file of the same name. Nothing is left.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"output is {folder}, which is a file. Give a folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{PARTIAL}")
    partial.mkdir()
    try:
        yield partial
        _move(partial, folder)
    finally:
        shutil.rmtree(partial)


def _move(partial: Path, folder: Path) -> None:
    written = {file.relative_to(partial): file for file in partial.rglob("*") if file.is_file()}
    there = [name for name in sorted(written) if (folder / name).exists()]
    other = [str(n) for n in there if not filecmp.cmp(written[n], folder / n, shallow=False)]
    if other:
        raise ExportError(
            f"output is {folder}, which holds another {' and '.join(other)}. Nothing was written. "
            "Give another folder, or remove what is there."
        )
    for name in sorted(written.keys() - there):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        written[name].replace(folder / name)
