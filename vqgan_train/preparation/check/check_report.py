"""Findings for people and for programs."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.shard_check import SIDE_STEPS, Kind

SHOWN_EXAMPLES = 3
LOOKED_AT = {"headers": "have a header that can be read", "decode": "can be read"}

Report = Mapping[str, Any]
"""Plain values, as JSON has them."""


def make_report(
    findings: Findings, *, looked_at: str, image_size: int, ranks: int, batch_size: int
) -> Report:
    """Put into plain values what was found, and what it means for training.

    Args:
        findings: of all shards.
        looked_at: headers, or decode if all images were decoded.
        image_size: of the model, in pixels.
        ranks: processes that train together.
        batch_size: images a rank and step.
    """
    images = [shard.num_images for shard in findings.shards]
    num_bytes = [shard.num_bytes for shard in findings.shards]
    return {
        "shards": {
            "count": len(findings.shards),
            "bytes": _spread(num_bytes),
            "images": _spread(images),
        },
        "images": {
            "looked_at": looked_at,
            "readable": sum(findings.formats.values()),
            "formats": dict(findings.formats.most_common()),
            "modes": dict(findings.modes.most_common()),
            "shorter_side": {str(s): findings.shorter_sides[s] for s in SIDE_STEPS},
            "image_size": image_size,
            "smaller_than_image_size": findings.counts[Kind.small],
        },
        "training": {
            "ranks": ranks,
            "batch_size": batch_size,
            "images_a_rank_and_epoch": sum(images) / ranks,
            "steps_an_epoch": sum(images) / (ranks * batch_size),
            "enough_to_validate": sum(images) >= ranks,
        },
        "problems": _of_kind(findings, (kind for kind in Kind if kind.is_problem)),
        "notes": _of_kind(findings, (kind for kind in Kind if not kind.is_problem)),
        "each_shard": [
            {"path": str(shard.path), "bytes": shard.num_bytes, "images": shard.num_images}
            for shard in findings.shards
        ],
    }


def _spread(values: list[int]) -> dict[str, float]:
    return {
        "total": sum(values),
        "smallest": min(values),
        "median": statistics.median(values),
        "largest": max(values),
    }


def _of_kind(findings: Findings, kinds: Iterable[Kind]) -> dict[str, Any]:
    return {
        kind.name: {
            "what": kind.value,
            "count": findings.counts[kind],
            "examples": findings.examples.get(kind, []),
        }
        for kind in kinds
        if findings.counts[kind]
    }


def to_text(report: Report) -> str:
    """Lay a report out on a page."""
    return "\n".join(
        [*_shards(report), *_images(report), *_training(report), *_found(report, "problems"),
         *_found(report, "notes")]
    )  # fmt: skip


def _shards(report: Report) -> Iterator[str]:
    images, num_bytes = report["shards"]["images"], report["shards"]["bytes"]
    yield f"shards      {report['shards']['count']:,} with {_size(num_bytes['total'])}"
    yield (
        f"            {_size(num_bytes['smallest'])} to {_size(num_bytes['largest'])}, "
        f"median {_size(num_bytes['median'])}"
    )
    yield (
        f"samples     {images['total']:,} with an image; "
        f"{images['smallest']:,} to {images['largest']:,} a shard, median {images['median']:,.0f}"
    )


def _images(report: Report) -> Iterator[str]:
    images = report["images"]
    readable = images["readable"]
    total = report["shards"]["images"]["total"]
    yield f"images      {readable:,} of {total:,} {LOOKED_AT[images['looked_at']]}"
    yield f"            {_shares(images['formats'])}; {_shares(images['modes'])}"
    yield "            shorter side, in pixels"
    steps = [*images["shorter_side"]]
    for first, last in zip(steps, [*steps[1:], None], strict=True):
        count = images["shorter_side"][first]
        if count:
            name = f"{first} to {int(last) - 1}" if last else f"{first} and more"
            yield f"            {name:>13}  {count:>11,}  {count / readable:6.1%}"
    smaller = images["smaller_than_image_size"]
    yield (
        f"            smaller than image_size={images['image_size']}: {smaller:,} "
        f"({smaller / max(readable, 1):.1%})"
    )


def _training(report: Report) -> Iterator[str]:
    training = report["training"]
    yield (
        f"training    with ranks={training['ranks']} batch_size={training['batch_size']}: "
        f"{training['images_a_rank_and_epoch']:,.1f} images a rank and epoch, "
        f"{training['steps_an_epoch']:,.1f} steps an epoch"
    )
    enough = "enough" if training["enough_to_validate"] else "too few"
    yield f"validation  {enough} images: a rank needs one at least"


def _found(report: Report, group: str) -> Iterator[str]:
    yield f"{group:<11} {'' if report[group] else 'none'}".rstrip()
    for entry in report[group].values():
        yield f"  {entry['count']:,} {entry['what']}"
        yield from (f"      {example}" for example in entry["examples"][:SHOWN_EXAMPLES])
        if entry["count"] > SHOWN_EXAMPLES:
            yield "      ..."


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
