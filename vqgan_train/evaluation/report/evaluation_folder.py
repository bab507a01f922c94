"""Writes an evaluation into a folder.

- `evaluation.json`: all results except those of single images;
- `summary.csv`: one row per checkpoint, group and metric, and one per change;
- `images.csv` and `faces.csv`: one row per image and per face;
- `pictures/*.png`: originals and reconstructions of the kept pictures.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
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

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")

PICTURE_NAME = re.compile(r"\d{9,}_(original|\d+)\.png")


def require_output(folder: Path) -> None:
    """Check that the folder is new, empty or an earlier evaluation's, and that it is writable.

    Raises:
        UserError: the path is a file, the folder holds other files, or it is not writable.
    """
    if folder.is_file():
        raise UserError(f"output={folder} is a file. Name a folder.")
    # Partial files are left by killed processes and can be ignored.
    is_used = folder.exists() and any(path.suffix != PARTIAL for path in folder.iterdir())
    if is_used and not _is_evaluation(folder):
        raise UserError(
            f"output={folder} holds files that no evaluation wrote. Name an empty or a new folder, "
            "or the folder of an evaluation, which is then replaced."
        )
    try:
        try_writing(folder)
    except OSError as error:
        raise UserError(
            f"output={folder} cannot be written: {error.strerror or error}. Choose another folder, "
            "or make this one writable, with free space."
        ) from error


def _is_evaluation(folder: Path) -> bool:
    """Return whether the folder's images.csv starts like that of an evaluation."""
    try:
        with (folder / IMAGES_FILE).open(encoding="utf-8") as file:
            return file.readline().startswith(IMAGES_HEAD)
    except (OSError, UnicodeError):
        return False


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write all files but the page, the JSON last: if it exists, the others are complete.

    Raises:
        OSError: the folder cannot be written.
    """
    _write_rows(folder / IMAGES_FILE, image_rows(evaluation))
    # Remove what is left of an earlier evaluation, because it no longer fits images.csv.
    (folder / JSON_FILE).unlink(missing_ok=True)
    (folder / PAGE_FILE).unlink(missing_ok=True)
    for old in (folder / PICTURES).glob("*.png"):
        if PICTURE_NAME.fullmatch(old.name):
            old.unlink()
    _write_rows(folder / FACES_FILE, face_rows(evaluation))
    _write_rows(folder / SUMMARY_FILE, summary_rows(evaluation))
    write_pictures(evaluation, folder)


def write_pictures(evaluation: Evaluation, folder: Path) -> None:
    """Write the kept pictures, then the evaluation's JSON file, which lists them.

    Raises:
        OSError: the folder cannot be written.
    """
    for picture in evaluation.pictures:
        _write_png(picture_file(folder, picture.row, None), picture.original)
        for number, checkpoint in enumerate(evaluation.checkpoints):
            pixels = picture.reconstructions[checkpoint.name]
            _write_png(picture_file(folder, picture.row, number), pixels)
    with write_atomically(folder / JSON_FILE) as file:
        plain = json.dumps(_plain(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
        file.write(plain.encode())


def picture_file(folder: Path, row: int, checkpoint: int | None) -> Path:
    """Return the path of a kept original (checkpoint None), or of a checkpoint's reconstruction."""
    version = "original" if checkpoint is None else str(checkpoint)
    return folder / PICTURES / f"{row:09d}_{version}.png"


def _plain(evaluation: Evaluation) -> Any:
    return _json(
        {
            "dataset": evaluation.dataset,
            "slices": list(evaluation.images.slices),
            "group_sizes": evaluation.group_sizes(),
            "checkpoints": [_plain_checkpoint(checkpoint) for checkpoint in evaluation.checkpoints],
            "evaluators": evaluation.evaluators,
            "differences": evaluation.differences,
            "left_out": evaluation.left_out,
            "pictures": [
                {"row": kept.row, "reasons": kept.reasons} for kept in evaluation.pictures
            ],
        }
    )


def _plain_checkpoint(checkpoint: CheckpointResult) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "source": checkpoint.source,
        "weights_sha256": checkpoint.weights_sha256,
        "image_metrics": list(checkpoint.values),
        "face_metrics": list(checkpoint.face_values),
        "codebook": checkpoint.codebook,
        "rfid": {
            group: asdict(distance) | {"comparable": distance.comparable}
            for group, distance in checkpoint.rfid.items()
        },
        "summaries": checkpoint.summaries,
    }


def _json(value: Any) -> Any:
    """Convert to JSON's types; NaN becomes None, and an infinity a string that `float` reads."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; an apostrophe before text that spreadsheets would run as a formula."""
    defused = (
        [f"'{c}" if isinstance(c, str) and c.startswith(FORMULA_SIGNS) else c for c in row]
        for row in rows
    )
    with write_atomically(path) as file:
        # A caption may contain a lone surrogate, which UTF-8 cannot encode.
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        csv.writer(text).writerows(defused)
        text.flush()
        text.detach()


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    with write_atomically(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
