"""An evaluation as one HTML file to look at, alone: nothing is loaded, and it can be mailed."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from vqgan_train.evaluation.page.cards import Card, draw_cards, draw_faces
from vqgan_train.evaluation.page.diagrams import draw_training, draw_usage
from vqgan_train.evaluation.page.jpeg import BRIGHTEST_ERROR
from vqgan_train.evaluation.page.metric_table import make_groups, make_notes, make_tiles
from vqgan_train.evaluation.report.metric_names import METRICS
from vqgan_train.evaluation.report.results import WITH_FACE, Evaluation
from vqgan_train.metrics.history import Row
from vqgan_train.system.files import write_atomically

QUALITIES = (95, 90, 85, 75, 60)
"""JPEG's, tried from the best on until the pictures fit."""


def write_page(
    path: Path,
    found: Evaluation,
    *,
    runs: Mapping[str, Sequence[Row]],
    picture_bytes: int = 6_000_000,
) -> None:
    """Draw the page.

    Args:
        path: the file.
        found: what there is to show.
        runs: rows of metrics.csv by the name of the checkpoint that the run made; those without a
            run are left out.
        picture_bytes: what all pictures together should not take, before base64 makes them a third
            larger. They are compressed as it needs, to the lowest of `QUALITIES` at most.

    Raises:
        OSError: the file cannot be written.
    """
    with write_atomically(path) as file:
        file.write(_render(found, runs, picture_bytes).encode())


def _render(found: Evaluation, runs: Mapping[str, Sequence[Row]], picture_bytes: int) -> str:
    cards, quality = _draw_within(found, picture_bytes)
    names = [checkpoint.name for checkpoint in found.checkpoints]
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_part("page.html")).render(
        found=found,
        names=names,
        tiles=make_tiles(found),
        groups=make_groups(found),
        notes=make_notes(found),
        cards=cards,
        reasons=_reasons(cards),
        faces=draw_faces(found),
        images_with_face=int(found.images.slices[WITH_FACE].sum())
        if WITH_FACE in found.images.slices
        else 0,
        metrics=METRICS,
        usage=draw_usage(found.checkpoints),
        trainings=_trainings(names, runs),
        quality=quality,
        brightest_error=BRIGHTEST_ERROR,
        style=_part("page.css"),
        script=script,
        script_digest=digest,
    )


def _draw_within(found: Evaluation, picture_bytes: int) -> tuple[list[Card], int]:
    """The pictures at the best quality at which they fit, or the lowest."""
    cards: list[Card] = []
    for quality in QUALITIES:
        cards = draw_cards(found, quality)
        if sum(jpeg.size for card in cards for jpeg in card.jpegs()) <= picture_bytes:
            return cards, quality
    return cards, QUALITIES[-1]


def _trainings(names: Sequence[str], runs: Mapping[str, Sequence[Row]]) -> list[tuple[str, str]]:
    """Curves under the names of the checkpoints of a run: best and last of one run share them."""
    makers: dict[str, list[str]] = {}
    for name in names:
        diagram = draw_training(runs.get(name, ()))
        if diagram is not None:
            makers.setdefault(diagram, []).append(name)
    return [(", ".join(made), diagram) for diagram, made in makers.items()]


def _reasons(cards: Sequence[Card]) -> dict[str, str]:
    """Why pictures were kept, with words for it, in the order of a menu."""
    kept = {reason: None for card in cards for reason in card.ranks}
    return {reason: _in_words(reason) for reason in sorted(kept, key=_menu_order)}


def _menu_order(reason: str) -> tuple[int, int]:
    kind, _, metric = reason.partition(" ")
    kinds = ("fixed", "face", "gained", "lost", "worst", "best")
    return kinds.index(kind) if kind in kinds else len(kinds), list(METRICS).index(metric or "psnr")


def _in_words(reason: str) -> str:
    kind, _, metric = reason.partition(" ")
    label = METRICS[metric].label if metric else ""
    return {
        "fixed": "a sample of all",
        "face": "with a face",
        "gained": f"gained most in {label}",
        "lost": f"lost most in {label}",
        "worst": f"worst {label}",
        "best": f"best {label}",
    }.get(kind, reason)


def _part(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


__all__ = ["write_page"]
