"""Tables of the model card, in Markdown: validation metrics and training losses of all runs."""

from collections.abc import Mapping, Sequence

from vqgan_train.metrics.history import MetricRow
from vqgan_train.release.lineage import Lineage, TrainingRun
from vqgan_train.release.run_records import RunRecords

VALIDATION_LABELS = {
    "val/loss/reconstruction": "L1 + LPIPS",
    "val/loss/perceptual": "LPIPS (VGG16)",
    "val/loss/pixel": "L1",
    "val/loss/codebook": "codebook loss",
    "val/psnr": "PSNR (dB)",
    "val/ssim": "SSIM",
    "val/codebook/used": "codes used",
    "val/codebook/perplexity": "perplexity of the codes",
}
TRAINING_LABELS = {
    "train/loss/reconstruction": "L1 + LPIPS",
    "train/loss/perceptual": "LPIPS (VGG16)",
    "train/loss/pixel": "L1",
    "train/loss/codebook": "codebook loss",
    "train/loss/adversarial": "adversarial loss",
    "train/adversarial/weight": "adaptive weight",
    "train/loss/discriminator": "discriminator loss",
}
"""Labels of the lines of both tables, by the metric's name in the log."""

VALIDATION_METRIC = "val/loss/reconstruction"
TRAINING_METRIC = "train/loss/reconstruction"
"""Metrics that are in every validation row, and in every training row, of metrics.csv."""


def validation_table(lineage: Lineage, records: Sequence[RunRecords]) -> str | None:
    """Compare validation metrics before training, after each run, and of the released model.

    Validations of other images, or of another image size, are left out.

    Returns:
        None if the last run has no validation metrics.
    """
    runs = lineage.runs
    newest = records[-1].last(VALIDATION_METRIC)
    if newest is None:
        return None
    columns: dict[str, MetricRow] = {}
    if has_same_validation(runs[0], runs[-1]):
        # metrics.csv has more metrics of step 0 than the checkpoint, but may be unavailable.
        first = records[0].first(VALIDATION_METRIC)
        recorded = {"step": 0.0, **lineage.first_validation}
        columns["before training"] = first if first and first["step"] == 0 else recorded
    for run, its_records in zip(runs[:-1], records, strict=False):
        row = its_records.last(VALIDATION_METRIC)
        if row is not None and has_same_validation(run, runs[-1]):
            columns[f"after Part {run.number}"] = row
    return _table({**columns, "this model": newest}, VALIDATION_LABELS)


def has_same_validation(run: TrainingRun, other: TrainingRun) -> bool:
    """Return whether two runs validate on the same images at the same size, so metrics compare."""
    return run.data["val_fingerprint"] == other.data["val_fingerprint"] and all(
        run.settings["data"][name] == other.settings["data"][name]
        for name in ("image_size", "resize")
    )


def loss_table(records: Sequence[RunRecords]) -> str | None:
    """Compare the first logged training losses with the last.

    Returns:
        None if the last run has no training metrics.
    """
    last = records[-1].last(TRAINING_METRIC)
    if last is None:
        return None
    first = records[0].first(TRAINING_METRIC) or records[-1].first(TRAINING_METRIC) or last
    return _table({"first logged": first, "last logged": last}, TRAINING_LABELS)


def format_number(value: float) -> str:
    """Format a whole number with all its digits, any other with four significant digits."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _table(columns: Mapping[str, MetricRow], labels: Mapping[str, str]) -> str:
    """Draw a Markdown table; each column is a row of metrics.csv, each line a metric."""
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    rows = columns.values()
    known = {name: label for name, label in labels.items() if any(name in row for row in rows)}
    for name, label in {"step": "step", **known}.items():
        cells = [format_number(row[name]) if name in row else "unknown" for row in rows]
        lines.append([label, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
