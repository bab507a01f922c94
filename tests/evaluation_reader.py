"""Reads the folder of an evaluation, so that tests can compare it with what was written."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqgan_train.evaluation.report.evaluation_folder import (
    FACES_FILE,
    IMAGES_FILE,
    JSON_FILE,
    picture_file,
)
from vqgan_train.evaluation.report.results import (
    CheckpointResult,
    DatasetFacts,
    Difference,
    Evaluation,
    ImageTable,
    KeptPicture,
    LeftOut,
    SetDistance,
    Summary,
)
from vqgan_train.evaluation.report.rows import BOX, SLICE_PREFIX
from vqgan_train.metrics.codebook import CodebookStatistics

Columns = Mapping[str, Sequence[str]]

LONGEST_CAPTION = 2**31 - 1
"""In bytes; the csv module refuses fields longer than 131,072 by default."""


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation from the folder that `write_evaluation` wrote, bit for bit."""
    plain = json.loads((folder / JSON_FILE).read_bytes())
    images, faces = _columns(folder / IMAGES_FILE), _columns(folder / FACES_FILE)
    checkpoints = tuple(_checkpoint(own, images, faces) for own in plain["checkpoints"])
    names = [checkpoint.name for checkpoint in checkpoints]
    return Evaluation(
        dataset=_dataset(plain["dataset"]),
        images=_image_table(plain["slices"], images, faces),
        checkpoints=checkpoints,
        evaluators=plain["evaluators"],
        differences=tuple(_difference(own) for own in plain["differences"]),
        left_out=tuple(LeftOut(**own) for own in plain["left_out"]),
        pictures=tuple(_picture(own, names, folder) for own in plain["pictures"]),
    )


def _columns(path: Path) -> Columns:
    before = csv.field_size_limit(LONGEST_CAPTION)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
    finally:
        csv.field_size_limit(before)
    return {name: [row[place] for row in rows] for place, name in enumerate(head)}


def _integers(cells: Sequence[str]) -> NDArray[np.int64]:
    return np.array([int(cell) for cell in cells], dtype=np.int64)


def _floats(cells: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(cell) for cell in cells], dtype=np.float64)


def _dataset(plain: Mapping[str, Any]) -> DatasetFacts:
    names = ("given", "unreadable", "dead_shards", "damaged_shards")
    lists = {name: tuple(plain[name]) for name in names}
    return DatasetFacts(**{**plain, **lists})


def _image_table(slices: Sequence[str], images: Columns, faces: Columns) -> ImageTable:
    boxes = [_integers(faces[name]) for name in BOX]
    return ImageTable(
        numbers=_integers(images["number"]),
        keys=tuple(images["key"]),
        captions=tuple(images["caption"]),
        sources=tuple(images["source"]),
        widths=_integers(images["width"]),
        heights=_integers(images["height"]),
        face_images=_integers(faces["row"]),
        face_boxes=np.stack(boxes, axis=1),
        slices={name: _integers(images[SLICE_PREFIX + name]) > 0 for name in slices},
    )


def _checkpoint(plain: Mapping[str, Any], images: Columns, faces: Columns) -> CheckpointResult:
    name, codebook = plain["name"], plain["codebook"]
    return CheckpointResult(
        name=name,
        source=plain["source"],
        weights_sha256=plain["weights_sha256"],
        values={metric: _floats(images[f"{name}:{metric}"]) for metric in plain["image_metrics"]},
        face_values={
            metric: _floats(faces[f"{name}:{metric}"]) for metric in plain["face_metrics"]
        },
        codebook=CodebookStatistics(
            **{**codebook, "usage": np.array(codebook["usage"], dtype=np.int64)}
        ),
        rfid={group: _distance(own) for group, own in plain["rfid"].items()},
        summaries={
            group: {metric: _summary(own) for metric, own in of_group.items()}
            for group, of_group in plain["summaries"].items()
        },
    )


def _summary(plain: Mapping[str, Any]) -> Summary:
    means = {name: _float(plain[name]) for name in ("mean", "low", "high")}
    return Summary(**{**plain, **means})


def _float(number: float | str | None) -> float:
    """Undo how evaluation/report/evaluation_folder.py writes NaN and infinity, which JSON lacks."""
    return float("nan") if number is None else float(number)


def _distance(plain: Mapping[str, Any]) -> SetDistance:
    return SetDistance(
        value=_float(plain["value"]), evaluator=plain["evaluator"], count=plain["count"]
    )


def _difference(plain: Mapping[str, Any]) -> Difference:
    changed = {
        "change": _summary(plain["change"]),
        "share_better": _float(plain["share_better"]),
    }
    return Difference(**{**plain, **changed})


def _picture(plain: Mapping[str, Any], names: Sequence[str], folder: Path) -> KeptPicture:
    row = plain["row"]
    return KeptPicture(
        row=row,
        reasons=tuple(plain["reasons"]),
        original=_pixels(picture_file(folder, row, None)),
        reconstructions={
            name: _pixels(picture_file(folder, row, number)) for number, name in enumerate(names)
        },
    )


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
