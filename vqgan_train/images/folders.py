"""Image files in folders, and captions in tables or in text files next to the images."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple, TextIO

from vqgan_train.shards.tar import IMAGE_FIELDS, is_hidden
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_signature, fingerprint

MAX_LISTED_SUFFIXES = 5


@dataclass(frozen=True, slots=True)
class FolderScan:
    """The files that were found in folders."""

    images: int
    """Number of files with the suffix of an image."""

    others: Counter[str]
    """Number of other files by suffix, or by name if they have no suffix."""

    fingerprint: str
    """Changes when an image is added, removed or modified."""


class ImageFile(NamedTuple):
    """An image file in a folder."""

    number: int
    """Position among the image files of all folders, from 0 on."""

    folder: Path
    name: str
    """Path relative to the folder, with `/`."""

    caption: str | None
    """Caption from a table; None without a table: then it is in a text file beside the image."""


def scan_folders(folders: Sequence[Path]) -> FolderScan:
    """Count and fingerprint the files in folders and their subfolders.

    Raises:
        UserError: a folder is missing, cannot be read or lies in another one, or none has an image.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}. Relative paths start at {Path.cwd()}.")
    _require_apart(folders)
    images: Counter[bool] = Counter()
    others: Counter[str] = Counter()

    def signatures() -> Iterator[object]:
        for path in _walk(folders):
            if is_image_file(path):
                images[True] += 1
                yield file_signature(path) if path.exists() else str(path)
            else:
                others[path.suffix.lower() or path.name] += 1

    files_fingerprint = fingerprint(signatures())
    if not images:
        found = ", ".join(f"{suffix} {n}" for suffix, n in others.most_common(MAX_LISTED_SUFFIXES))
        raise UserError(
            f"There is no image file in {', '.join(map(str, folders))} (found: {found or 'none'}). "
            f"Give folders with files that end with {', '.join(sorted(IMAGE_FIELDS))}."
        )
    return FolderScan(images[True], others, files_fingerprint)


def _require_apart(folders: Sequence[Path]) -> None:
    for outer, inner in permutations(folders, 2):
        if inner.resolve().is_relative_to(outer.resolve()):
            raise UserError(
                f"{inner} is in {outer}: its images would be packed twice. Name one of them."
            )


def image_files(folders: Sequence[Path], captions: Mapping[str, str] | None) -> Iterator[ImageFile]:
    """List the image files of folders: folder by folder, in a fixed order by name in each.

    Args:
        folders: folders of any depth.
        captions: captions by path relative to the folder; other images get an empty one. None: they
            are in text files next to the images.
    """
    number = 0
    for folder in folders:
        for path in _walk([folder]):
            if is_image_file(path):
                name = path.relative_to(folder).as_posix()
                caption = captions.get(name, "") if captions is not None else None
                yield ImageFile(number, folder, name, caption)
                number += 1


def text_beside(image: Path) -> str:
    """Read the caption in the text file beside an image (a.txt for a.jpg); empty without a file."""
    text = image.with_suffix(".txt")
    return text.read_text("utf-8-sig", errors="replace").strip() if text.is_file() else ""


def read_captions(table: Path, path_column: str, text_column: str) -> dict[str, str]:
    """Read captions from a table: JSON lines (.jsonl), or TSV (.tsv) or CSV with a header.

    Returns:
        Captions by the values of the path column.

    Raises:
        UserError: the table cannot be read, lacks a column, or names a file twice; or a row of it
            has more or fewer columns than its header.
    """
    captions: dict[str, str] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = map(json.loads, filter(str.strip, file))
            for row in rows if table.suffix == ".jsonl" else _rows(file, table.suffix == ".tsv"):
                missing = {path_column, text_column} - set(row)
                if missing:
                    raise UserError(
                        f"{table} has the columns {', '.join(row)}, and no {', '.join(missing)}. "
                        "Set captions_path_column and captions_text_column."
                    )
                name = Path(row[path_column] or "").as_posix()
                if name in captions:
                    raise UserError(f"{table} names {name} twice. Keep one of these lines.")
                captions[name] = str(row[text_column] or "").strip()
    except UserError:
        raise
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"The captions in {table} cannot be read: {error}") from error
    return captions


def _rows(file: TextIO, is_tsv: bool) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV; a table without rows yields one of empty texts.

    In a TSV, quotes are part of the texts.

    Raises:
        ValueError: a row has more or fewer columns than the header, or a quote is not closed.
    """
    # Without `strict`, a quote that is not closed swallows all rows to the next quote.
    rows = csv.reader(
        file,
        strict=True,
        delimiter="\t" if is_tsv else ",",
        quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
    )
    try:
        columns = next(rows, [])
        for row in filter(None, rows):
            if len(row) != len(columns):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} columns, but the header {len(columns)}"
                )
            yield dict(zip(columns, row, strict=True))
    except csv.Error as error:
        hint = "is a quote in it or before it not closed, or not doubled?"
        raise ValueError(f"line {rows.line_num}: {error} ({hint})") from error
    if rows.line_num <= 1:  # its columns are checked all the same
        yield dict.fromkeys(columns, "")


def is_image_file(path: Path) -> bool:
    """Return whether a file's suffix, in upper or lower case, is that of an image."""
    return path.suffix[1:].lower() in IMAGE_FIELDS


def replace_undecodable(name: str) -> str:
    """Replace the bytes of a file's name that are not UTF-8, because they cannot be printed."""
    return os.fsencode(name).decode("utf-8", "replace")


def _walk(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        walked = {folder.resolve()}
        for parent, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            subfolders[:] = [
                name
                for name in sorted(subfolders)
                if not is_hidden(name) and _is_new(Path(parent, name), walked)
            ]
            visible = (name for name in sorted(names) if not is_hidden(name))
            yield from map(partial(Path, parent), visible)


def _is_new(folder: Path, walked: set[Path]) -> bool:
    """Return False for a link to a folder that is walked anyway; else add its target to `walked`.

    So the walk ends even if links form a circle.
    """
    if folder.is_symlink():
        target = folder.resolve()
        if any(target.is_relative_to(one) or one.is_relative_to(target) for one in walked):
            return False
        walked.add(target)
    return True


def _refuse(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.")
