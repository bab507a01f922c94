"""Reads the metrics.csv of a run and draws its curves."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vqgan_train.system.files import write_atomically

METRICS_FILE = "metrics.csv"

MetricRow = Mapping[str, float]
"""Metrics of one step by name, and the step itself as `step`."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a metrics.csv, without a half-written last row; empty if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def numbers(rows: Iterable[Mapping[str, str]]) -> list[MetricRow]:
    """Convert the cells of rows to numbers, without the empty cells."""
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def rows_beside(checkpoint: str) -> list[MetricRow]:
    """Read the metrics of the run in whose folder a checkpoint lies; empty if it lies in none."""
    folder = Path(checkpoint).expanduser().absolute().parent.parent
    try:
        return numbers(read_rows(folder / METRICS_FILE))
    except (OSError, ValueError, TypeError):  # another program's metrics.csv
        return []


Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and values of a metric, both (T,)."""


PANELS: Mapping[str, Mapping[str, str]] = {
    "L1 + LPIPS": {
        "train/loss/reconstruction": "training",
        "val/loss/reconstruction": "validation",
    },
    "LPIPS": {
        "train/loss/perceptual": "training",
        "val/loss/perceptual": "validation",
        "val/lpips_alexnet": "validation, AlexNet",
    },
    "L1": {"train/loss/pixel": "training", "val/loss/pixel": "validation"},
    "codebook loss": {"train/loss/codebook": "training", "val/loss/codebook": "validation"},
    "adversarial losses": {
        "train/loss/adversarial": "generator",
        "train/loss/discriminator": "discriminator",
    },
    "PSNR (dB)": {"val/psnr": "validation"},
    "SSIM": {"val/ssim": "validation"},
    "codes used": {"val/codebook/used": "used", "val/codebook/perplexity": "perplexity"},
}
"""Diagrams by title; each maps the names of metrics in the log to the labels of its lines.

They are drawn in this order; diagrams without a value are left out.
"""

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
"""Colour of all other lines; distinguishable from COLORS by people who cannot see red."""

MAX_POINTS = 150
"""Longer series are drawn pale, under the means of this many equal sections."""


def draw_curves(rows: Sequence[MetricRow]) -> Figure | None:
    """Draw the metrics of a run over its steps; None if there is nothing to draw."""
    series = {name: _series(rows, name) for lines in PANELS.values() for name in lines}
    panels = [
        title for title, lines in PANELS.items() if any(len(series[name][0]) for name in lines)
    ]
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
    for axes, title in zip(figure.axes, panels, strict=True):
        _draw_panel(axes, title, series)
    return figure


def write_curves(path: Path, rows: Sequence[MetricRow]) -> bool:
    """Write the curves of a run as a PNG; False if there was nothing to draw."""
    figure = draw_curves(rows)
    if figure is None:
        return False
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
    return True


def _series(rows: Sequence[MetricRow], name: str) -> Series:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    # Values that are not finite (a skipped step, the PSNR of identical images) leave a gap.
    return steps, np.where(np.isfinite(values), values, np.nan)


def _draw_panel(axes: Axes, title: str, series: Mapping[str, Series]) -> None:
    lines = PANELS[title]
    drawn = {label: series[name] for name, label in lines.items() if len(series[name][0])}
    for label, (steps, values) in drawn.items():
        color = COLORS.get(label, FIRST_COLOR)
        is_long = len(steps) > MAX_POINTS
        if is_long:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.6)
            steps, values = _means(steps), _means(values)
        # Few points, as of validations, get markers, because a single point makes no line.
        marker = "." if len(steps) <= MAX_POINTS // 4 else ""
        axes.plot(steps, values, color=color, linewidth=1.3, marker=marker, label=label)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of `MAX_POINTS` equal sections, ignoring NaN."""
    sections = np.array_split(values, MAX_POINTS)
    return np.array([np.nan if np.isnan(s).all() else np.nanmean(s) for s in sections])
