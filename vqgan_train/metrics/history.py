"""Reads metrics.csv."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vqgan_train.system.files import write_atomically

METRICS_FILE = "metrics.csv"

Row = Mapping[str, float]
"""The metrics of a step by name, and the step itself."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """List the whole rows that are there; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def numbers(rows: Iterable[Mapping[str, str]]) -> list[Row]:
    """Rows as numbers; empty cells are left out."""
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def rows_beside(checkpoint: str) -> list[Row]:
    """Rows of the run whose folder a checkpoint lies in; none if it lies in none here."""
    folder = Path(checkpoint).expanduser().absolute().parent.parent
    try:
        return numbers(read_rows(folder / METRICS_FILE))
    except (OSError, ValueError, TypeError):  # a table of somebody else's
        return []


Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and values, equally many."""


class Panel(NamedTuple):
    """One diagram: a title, and what is drawn in it under which name."""

    title: str
    lines: Mapping[str, str]


PANELS = (
    Panel(
        "L1 + LPIPS",
        {"train/loss/reconstruction": "training", "val/loss/reconstruction": "validation"},
    ),
    Panel(
        "LPIPS",
        {
            "train/loss/perceptual": "training",
            "val/loss/perceptual": "validation",
            "val/lpips_alexnet": "validation, AlexNet",
        },
    ),
    Panel("L1", {"train/loss/pixel": "training", "val/loss/pixel": "validation"}),
    Panel("codebook loss", {"train/loss/codebook": "training", "val/loss/codebook": "validation"}),
    Panel(
        "adversarial losses",
        {"train/loss/adversarial": "generator", "train/loss/discriminator": "discriminator"},
    ),
    Panel("PSNR (dB)", {"val/psnr": "validation"}),
    Panel("SSIM", {"val/ssim": "validation"}),
    Panel("codes used", {"val/codebook/used": "used", "val/codebook/perplexity": "perplexity"}),
)
"""In the order in which they are drawn; those without a value are left out."""

COLUMNS = 4
PANEL_INCHES = (2.9, 2.2)
DOTS_PER_INCH = 120

COLORS = {
    "validation": "#d1495b",
    "validation, AlexNet": "#e9a03b",
    "discriminator": "#d1495b",
    "perplexity": "#d1495b",
}
FIRST_COLOR = "#2f6f9f"
"""Of all other lines. They are told apart by people who see no red."""

MOST_POINTS = 150
"""Longer series are drawn pale, with the means of so many stretches over them."""


def draw_curves(rows: Sequence[Row]) -> Figure | None:
    """Draw losses, fidelity and codes over the steps; None if there is nothing to draw.

    Args:
        rows: of a run, in order.
    """
    found = {name: _series(rows, name) for panel in PANELS for name in panel.lines}
    panels = [panel for panel in PANELS if any(len(found[name][0]) for name in panel.lines)]
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(
        figsize=(columns * PANEL_INCHES[0], lines * PANEL_INCHES[1]),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes in list(grid)[len(panels) :]:
        axes.remove()
    for axes, panel in zip(figure.axes, panels, strict=True):
        _draw_panel(axes, panel, found)
    return figure


def write_curves(path: Path, rows: Sequence[Row]) -> bool:
    """Write the diagrams of a run as a PNG; False if there was nothing to draw."""
    figure = draw_curves(rows)
    if figure is None:
        return False
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
    return True


def _series(rows: Sequence[Row], name: str) -> Series:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    # What is not finite (a skipped step, the PSNR of equal images) leaves a gap.
    return steps, np.where(np.isfinite(values), values, np.nan)


def _draw_panel(axes: Axes, panel: Panel, found: Mapping[str, Series]) -> None:
    drawn = {label: found[name] for name, label in panel.lines.items() if len(found[name][0])}
    for label, (steps, values) in drawn.items():
        color = COLORS.get(label, FIRST_COLOR)
        is_long = len(steps) > MOST_POINTS
        if is_long:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.6)
            steps, values = _means(steps), _means(values)
        # Few points, as validations are, are marked: a single one makes no line.
        marker = "." if len(steps) <= MOST_POINTS // 4 else ""
        axes.plot(steps, values, color=color, linewidth=1.3, marker=marker, label=label)
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    if len(panel.lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `MOST_POINTS` stretches of as many values each as can be; gaps do not count."""
    stretches = np.array_split(values, MOST_POINTS)
    return np.array([np.nan if np.isnan(s).all() else np.nanmean(s) for s in stretches])
