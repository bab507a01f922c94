"""folders."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from vqgan_train.shards.tar import IMAGE_FIELDS
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.jobs import fingerprint, stamp

SHOWN_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What lies in the folders."""

    images: int
    """Files that are called like images."""

    others: Counter[str]
    """All others, by what their names end with."""

    fingerprint: str
    """Changes when an image comes, goes or changes."""


class ImageFile(NamedTuple):
    """One file and where it is from."""

    number: int
    """Its place among all, which becomes its key."""

    folder: Path
    name: str
    """Its path below the folder, with `/`."""

    caption: str | None
    """What a table says; None: look for a text file beside it."""


def look_through(folders: Sequence[Path]) -> FoundFiles:
    """Count what is in folders.

    Raises:
        PreparationError: a folder is missing, or there is no image in any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise PreparationError(
                f"There is no folder {folder}. Relative paths start at {Path.cwd()}."
            )
    _require_apart(folders)
    images: Counter[bool] = Counter()
    others: Counter[str] = Counter()

    def stamps() -> Iterator[object]:
        for path in _walk(folders):
            if is_image_file(path):
                images[True] += 1
                yield stamp(path) if path.exists() else str(path)
            else:
                others[path.suffix.lower() or path.name] += 1

    seen = fingerprint(stamps())
    if not images:
        raise PreparationError(
            f"There is no image file in {', '.join(map(str, folders))}; other files: "
            f"{dict(others.most_common(SHOWN_AT_MOST))}. Names of images end with "
            f"{', '.join(sorted(IMAGE_FIELDS))}."
        )
    return FoundFiles(images[True], others, seen)


def _require_apart(folders: Sequence[Path]) -> None:
    for one, other in permutations(folders, 2):
        if other.resolve().is_relative_to(one.resolve()):
            raise PreparationError(
                f"{other} is in {one}: its images would be packed twice. Name one of them."
            )


def image_files(folders: Sequence[Path], captions: Mapping[str, str] | None) -> Iterator[ImageFile]:
    """List the image files of folders, sorted in each.

    Args:
        folders: are searched in the order given.
        captions: by a file's path below its folder. None: text files beside the images.
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
    """The caption in a text file that is called like the image; empty if there is none."""
    text = image.with_suffix(".txt")
    return text.read_text("utf-8", errors="replace").strip() if text.is_file() else ""


def read_captions(table: Path, path_column: str, text_column: str) -> dict[str, str]:
    """Read captions from a table with a header: CSV, or TSV if it is called so.

    Returns:
        The captions by what the path column says.

    Raises:
        PreparationError: it cannot be read, lacks a column, or names a file twice.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",")
            columns = list(rows.fieldnames or [])
            missing = {path_column, text_column} - set(columns)
            if missing:
                raise PreparationError(
                    f"{table} has the columns {', '.join(columns)}, and no {', '.join(missing)}. "
                    "Set captions_path_column and captions_text_column."
                )
            captions: dict[str, str] = {}
            for row in rows:
                name = Path(row[path_column] or "").as_posix()
                if name in captions:
                    raise PreparationError(f"{table} names {name} twice. Leave one line of it.")
                captions[name] = (row[text_column] or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PreparationError(f"The captions in {table} cannot be read: {error}") from error
    return captions


def without_image(captions: Mapping[str, str], files: Iterator[ImageFile]) -> set[str]:
    """Names in a table of captions that no image file has."""
    return set(captions).difference(file.name for file in files)


def is_image_file(path: Path) -> bool:
    """Whether a file is called like an image."""
    return path.suffix[1:].lower() in IMAGE_FIELDS


def printable(name: str) -> str:
    """A file's name as text, with what is no UTF-8 replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _walk(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for parent, subfolders, names in os.walk(folder, onerror=_refuse):
            subfolders.sort()
            yield from map(partial(Path, parent), sorted(names))


def _refuse(error: OSError) -> None:
    raise PreparationError(f"The folder {error.filename} cannot be read: {error.strerror}.")
