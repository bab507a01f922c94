"""The numbers of metrics.csv as tables: what was measured before, between and after."""

from collections.abc import Mapping, Sequence

from vqgan_train.metrics.history import MetricRow
from vqgan_train.release.lineage import Lineage, Part
from vqgan_train.release.run_records import TRAINED, VALIDATED, Records

VALIDATION = {
    "val/loss/reconstruction": "L1 + LPIPS",
    "val/loss/perceptual": "LPIPS (VGG16)",
    "val/loss/pixel": "L1",
    "val/loss/codebook": "codebook loss",
    "val/psnr": "PSNR (dB)",
    "val/ssim": "SSIM",
    "val/codebook/used": "codes used",
    "val/codebook/perplexity": "perplexity of the codes",
}
TRAINING = {
    "train/loss/reconstruction": "L1 + LPIPS",
    "train/loss/perceptual": "LPIPS (VGG16)",
    "train/loss/pixel": "L1",
    "train/loss/codebook": "codebook loss",
    "train/loss/adversarial": "adversarial loss",
    "train/adversarial/weight": "adaptive weight",
    "train/loss/discriminator": "discriminator loss",
}
"""Metrics, and what the card calls them."""


def validation_table(lineage: Lineage, records: Sequence[Records]) -> str | None:
    """Compare the newest validations of all parts; None if the last part has none at hand."""
    parts = lineage.parts
    newest = records[-1].last(VALIDATED)
    if newest is None:
        return None
    columns: dict[str, MetricRow] = {}
    if has_same_validation(parts[0], parts[-1]):
        whole = records[0].first(VALIDATED)
        before = {"step": 0.0, **lineage.first_validation}
        columns["before training"] = whole if whole and whole["step"] == 0 else before
    for part, its_records in zip(parts[:-1], records, strict=False):
        row = its_records.last(VALIDATED)
        if row is not None and has_same_validation(part, parts[-1]):
            columns[f"after Part {part.number}"] = row
    return _table({**columns, "this model": newest}, VALIDATION)


def has_same_validation(part: Part, other: Part) -> bool:
    """Whether the validations of two parts can be compared: same images, of the same size."""
    return part.data["val_fingerprint"] == other.data["val_fingerprint"] and all(
        part.settings["data"][name] == other.settings["data"][name]
        for name in ("image_size", "resize")
    )


def losses_table(records: Sequence[Records]) -> str | None:
    """Compare the first losses that were logged with the last; None if they are not at hand."""
    last = records[-1].last(TRAINED)
    if last is None:
        return None
    first = records[0].first(TRAINED) or records[-1].first(TRAINED) or last
    return _table({"first logged": first, "last logged": last}, TRAINING)


def short(value: float) -> str:
    """Counts as they are, measurements with four digits."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _table(columns: Mapping[str, MetricRow], labels: Mapping[str, str]) -> str:
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    rows = columns.values()
    known = {name: label for name, label in labels.items() if any(name in row for row in rows)}
    for name, label in {"step": "step", **known}.items():
        cells = [short(row[name]) if name in row else "unknown" for row in rows]
        lines.append([label, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
