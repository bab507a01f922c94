"""Writes an evaluation into a folder; `reading` reads it back.

- `evaluation.json`: everything but what is said of each image;
- `summary.csv`: the table, a row for each checkpoint, group and metric, differences included;
- `images.csv` and `faces.csv`: a row for each image and each face;
- `pictures/*.png`: the pictures that were kept.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqgan_train.evaluation.report.results import CheckpointResult, Evaluation
from vqgan_train.evaluation.report.rows import IMAGES_HEAD, face_rows, image_rows, summary_rows
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import PARTIAL, try_writing, write_atomically

JSON_FILE = "evaluation.json"
SUMMARY_FILE = "summary.csv"
IMAGES_FILE = "images.csv"
FACES_FILE = "faces.csv"
PAGE_FILE = "page.html"
PICTURES = "pictures"

PICTURE_NAME = re.compile(r"\d{9,}_(original|\d+)\.png")


class OutputError(UserError):
    """The folder for an evaluation is in use, or cannot be written; the message says why."""


def require_output(folder: Path) -> None:
    """Refuse a folder that something else is in or that cannot be written, before hours are spent.

    Raises:
        OutputError: it is a file, holds files and no evaluation, or cannot be written.
    """
    if folder.is_file():
        raise OutputError(f"output={folder} is a file. Name a folder.")
    # What a process that was killed was about to write is of no use to anyone.
    is_used = folder.exists() and any(path.suffix != PARTIAL for path in folder.iterdir())
    if is_used and not _is_evaluation(folder):
        raise OutputError(
            f"output={folder} holds files of something else. Name an empty or a new folder, or "
            "that of an evaluation, which is then replaced."
        )
    try:
        try_writing(folder)
    except OSError as error:
        raise OutputError(
            f"output={folder} cannot be written: {error.strerror or error}. Choose another folder, "
            "or make room in this one."
        ) from error


def _is_evaluation(folder: Path) -> bool:
    """Whether the images.csv in a folder is one of ours."""
    try:
        with (folder / IMAGES_FILE).open(encoding="utf-8") as file:
            return file.readline().startswith(IMAGES_HEAD)
    except (OSError, UnicodeError):
        return False


def write_evaluation(found: Evaluation, folder: Path) -> None:
    """Write an evaluation; the JSON comes last, so where it is there, all is there.

    Raises:
        OSError: the folder cannot be written.
    """
    _write_rows(folder / IMAGES_FILE, image_rows(found))
    # From here on it is no longer the evaluation that may have been here before.
    (folder / JSON_FILE).unlink(missing_ok=True)
    (folder / PAGE_FILE).unlink(missing_ok=True)
    for old in (folder / PICTURES).glob("*.png"):
        if PICTURE_NAME.fullmatch(old.name):
            old.unlink()
    _write_rows(folder / FACES_FILE, face_rows(found))
    _write_rows(folder / SUMMARY_FILE, summary_rows(found))
    write_pictures(found, folder)


def write_pictures(found: Evaluation, folder: Path) -> None:
    """Write pictures, and the JSON that names them, beside the tables of the same evaluation.

    Raises:
        OSError: the folder cannot be written.
    """
    for picture in found.pictures:
        _write_png(picture_file(folder, picture.row, None), picture.original)
        for number, checkpoint in enumerate(found.checkpoints):
            pixels = picture.reconstructions[checkpoint.name]
            _write_png(picture_file(folder, picture.row, number), pixels)
    with write_atomically(folder / JSON_FILE) as file:
        plain = json.dumps(_plain(found), indent=1, ensure_ascii=False, allow_nan=False)
        file.write(plain.encode())


@contextmanager
def written_into(folder: Path) -> Iterator[None]:
    """Say what is to be done where the folder does not take all that is written.

    Raises:
        OutputError: it does not.
    """
    try:
        yield
    except OSError as error:
        there = ", ".join(
            name
            for name in (IMAGES_FILE, FACES_FILE, SUMMARY_FILE, JSON_FILE)
            if (folder / name).exists()
        )
        raise OutputError(
            f"output={folder} could not be written to the end: {error.strerror or error}. The "
            f"numbers are above; in the folder are {there or 'none of them'}. Make room, or name "
            "another folder, and run the command again."
        ) from error


def picture_file(folder: Path, row: int, checkpoint: int | None) -> Path:
    """Where a picture lies: the original, or what a checkpoint, by its number, made of it."""
    version = "original" if checkpoint is None else str(checkpoint)
    return folder / PICTURES / f"{row:09d}_{version}.png"


def _plain(found: Evaluation) -> dict[str, Any]:
    return {
        "dataset": asdict(found.dataset),
        "slices": list(found.images.slices),
        "group_sizes": found.group_sizes(),
        "checkpoints": [_plain_checkpoint(checkpoint) for checkpoint in found.checkpoints],
        "evaluators": dict(found.evaluators),
        "differences": [_numbers(asdict(difference)) for difference in found.differences],
        "left_out": [asdict(left_out) for left_out in found.left_out],
        "pictures": [{"row": kept.row, "reasons": kept.reasons} for kept in found.pictures],
    }


def _plain_checkpoint(checkpoint: CheckpointResult) -> dict[str, Any]:
    codebook = asdict(checkpoint.codebook) | {"usage": checkpoint.codebook.usage.tolist()}
    distances = {
        group: asdict(distance) | {"comparable": distance.comparable}
        for group, distance in checkpoint.rfid.items()
    }
    summaries = {
        group: {metric: asdict(summary) for metric, summary in of_group.items()}
        for group, of_group in checkpoint.summaries.items()
    }
    return _numbers(
        {
            "name": checkpoint.name,
            "source": checkpoint.source,
            "weights_sha256": checkpoint.weights_sha256,
            "image_metrics": list(checkpoint.values),
            "face_metrics": list(checkpoint.face_values),
            "codebook": codebook,
            "rfid": distances,
            "summaries": summaries,
        }
    )


def _numbers(value: Any) -> Any:
    """JSON has no NaN, which is null here, and no infinity: the string that `float` reads."""
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with write_atomically(path) as file:
        # Captions hold what they will: a lone surrogate would end the command otherwise.
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text)
        for row in rows:
            writer.writerow(row.values())
        text.flush()
        text.detach()


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    with write_atomically(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
