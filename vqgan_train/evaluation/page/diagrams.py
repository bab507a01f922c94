"""Draws the page's diagrams as SVGs that follow the reader's light or dark scheme."""

import base64
import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from vqgan_train.evaluation.report.results import CheckpointResult
from vqgan_train.metrics.history import MetricRow, draw_curves

INK = "#010203"
"""Placeholder for the text's colour, replaced in the SVG; no curve uses it."""

STYLE: dict[Any, Any] = {  # Any, because the type stubs list all valid keys
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # keeps text as text: smaller, and searchable
    "svg.hashsalt": "vqgan_train",  # makes pages of one evaluation identical
}
SCHEMES = (
    "<style>:root{color:#1c1e21}@media(prefers-color-scheme:dark){:root{color:#e4e6e9}}</style>"
)

COLORS = ("#2f7fb5", "#d1495b", "#3a9a5c", "#b07d2b", "#7a5fb0")
"""Colours of the checkpoints, repeated if there are more."""

BINS = 24


def draw_training(rows: Sequence[MetricRow]) -> str | None:
    """Draw the curves of a run as a data URI; None if there is nothing to draw."""
    with rc_context(STYLE):
        figure = draw_curves(rows)
        return None if figure is None else _uri(figure)


def draw_usage(checkpoints: Sequence[CheckpointResult]) -> str:
    """Draw a histogram of how often codes occur, and the counts by rank; returns a data URI."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        counts, ranks = figure.subplots(1, 2)
        most = max(2, *(int(c.codebook.usage.max(initial=0)) for c in checkpoints))
        # The first bin counts unused codes; the others have equal logarithmic widths, and each
        # contains at least one integer.
        edges = np.unique(np.geomspace(1, most + 1, BINS + 1).astype(np.int64))
        for index, checkpoint in enumerate(checkpoints):
            usage = checkpoint.codebook.usage
            color = COLORS[index % len(COLORS)]
            codes, _ = np.histogram(usage, bins=[0, *edges])
            counts.stairs(
                codes,
                [0.5, *edges],
                fill=index == 0,
                color=color,
                alpha=0.9 if index else 0.35,
                linewidth=1.5,
                label=str(index),
            )
            used = np.sort(usage[usage > 0])[::-1]
            ranks.plot(
                np.arange(1, len(used) + 1), used, color=color, linewidth=1.5, label=str(index)
            )
        counts.set(xscale="log", xlabel="times a code occurs (leftmost: never)", ylabel="codes")
        ranks.set(xscale="log", yscale="log", xlabel="rank of the code", ylabel="times it occurs")
        for axes in (counts, ranks):
            _name_lines(axes.legend(fontsize=8, frameon=False), checkpoints)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.5)
        return _uri(figure)


def _name_lines(legend: Legend, checkpoints: Sequence[CheckpointResult]) -> None:
    """Write the names into the legend, because as labels `_a` would be hidden and `$a$` typeset."""
    for text, checkpoint in zip(legend.get_texts(), checkpoints, strict=True):
        text.set_parse_math(False)
        text.set_text(checkpoint.name)


def _uri(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Missing glyphs do not matter, because the reader's fonts draw the text.
        warnings.filterwarnings("ignore", r"(?s)(Glyph|Matplotlib currently does not)")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    head, rest = svg.split(">", 1)
    content = f"{head}>{SCHEMES}{rest}".encode()
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
