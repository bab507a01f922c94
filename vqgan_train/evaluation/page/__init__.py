"""Renders an evaluation as one HTML file that loads nothing else, so that it can be mailed."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from vqgan_train.evaluation.page.cards import Card, draw_cards, draw_faces
from vqgan_train.evaluation.page.diagrams import draw_training, draw_usage
from vqgan_train.evaluation.page.jpeg import BRIGHTEST_ERROR
from vqgan_train.evaluation.page.metric_table import make_groups, make_notes, make_tiles
from vqgan_train.evaluation.report.metric_names import IMAGE_METRICS, METRICS
from vqgan_train.evaluation.report.results import WITH_FACE, Evaluation
from vqgan_train.metrics.history import MetricRow
from vqgan_train.system.files import write_atomically

QUALITIES = (95, 90, 85, 75, 60)
"""JPEG qualities, tried from the best until the pictures fit."""


def write_page(
    path: Path,
    evaluation: Evaluation,
    *,
    runs: Mapping[str, Sequence[MetricRow]],
    picture_bytes: int = 6_000_000,
) -> None:
    """Write the page.

    Args:
        path: file to write.
        evaluation: results to show.
        runs: by the checkpoint's name, the metrics of its training run; empty or missing if the run
            is unknown.
        picture_bytes: size limit for all pictures together, before base64 makes them a third
            larger. Their JPEG quality is lowered to meet it, down to the lowest of `QUALITIES`.

    Raises:
        OSError: the file cannot be written.
    """
    cards, quality = _draw_within(evaluation, picture_bytes)
    names = [checkpoint.name for checkpoint in evaluation.checkpoints]
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_part("page.html")).render(
        evaluation=evaluation,
        dataset=evaluation.dataset,
        images=evaluation.images,
        names=names,
        tiles=make_tiles(evaluation),
        groups=make_groups(evaluation),
        notes=make_notes(evaluation),
        cards=cards,
        reasons=_reasons(cards),
        faces=draw_faces(evaluation),
        faces_in_pictures=sum(card.faces for card in cards),
        images_with_face=int(np.sum(evaluation.images.slices.get(WITH_FACE, 0))),
        metrics=METRICS,
        usage=draw_usage(evaluation.checkpoints),
        trainings=_trainings(names, runs),
        quality=quality,
        brightest_error=BRIGHTEST_ERROR,
        style=_part("page.css"),
        script=script,
        script_digest=digest,
    )
    with write_atomically(path) as file:
        file.write(page.encode())


def _draw_within(evaluation: Evaluation, picture_bytes: int) -> tuple[list[Card], int]:
    """Return the pictures and their quality: the best at which they fit, or the lowest."""
    cards: list[Card] = []
    for quality in QUALITIES:
        cards = draw_cards(evaluation, quality)
        if sum(len(jpeg.content) for card in cards for jpeg in card.jpegs()) <= picture_bytes:
            return cards, quality
    return cards, QUALITIES[-1]


def _trainings(
    names: Sequence[str], runs: Mapping[str, Sequence[MetricRow]]
) -> list[tuple[str, str]]:
    """Return the names of each run's checkpoints (best and last, for example), and its curves."""
    names_by_diagram: dict[str, list[str]] = {}
    for name in names:
        diagram = draw_training(runs.get(name, ()))
        if diagram is not None:
            names_by_diagram.setdefault(diagram, []).append(name)
    return [(", ".join(of_run), diagram) for diagram, of_run in names_by_diagram.items()]


def _reasons(cards: Sequence[Card]) -> dict[str, str]:
    """Return the labels of the reasons for which pictures were kept, in the order of the menu."""
    kept = {reason for card in cards for reason in card.ranks}
    labels = {"fixed": "a sample of all", "face": "with a face"}
    for kind in ("gained most in", "lost most in", "worst", "best"):
        for name, metric in IMAGE_METRICS.items():
            labels[f"{kind.split()[0]} {name}"] = f"{kind} {metric.label}"
    return {reason: label for reason, label in labels.items() if reason in kept}


def _part(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
