"""The report of check_data, as plain values for programs and as text for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from vqgan_train.preparation.check.findings import Findings
from vqgan_train.preparation.check.shard_check import SIDE_STEPS, Kind
from vqgan_train.system.addresses import redact

SHOWN_EXAMPLES = 3

Report = Mapping[str, Any]
"""Values that JSON can store."""


def make_report(findings: Findings, image_size: int) -> Report:
    """Return the report of findings, as values that JSON can store.

    Args:
        findings: the findings of all shards.
        image_size: side of the model's images, in pixels.
    """
    return {
        "shards": len(findings.shards),
        "images": sum(shard.num_images for shard in findings.shards),
        "readable_images": sum(findings.shorter_sides.values()),
        "image_size": image_size,
        "shorter_side": {str(step): findings.shorter_sides[step] for step in SIDE_STEPS},
        "problems": _entries(findings, are_problems=True),
        "notes": _entries(findings, are_problems=False),
        "images_per_shard": {
            redact(str(shard.path)): shard.num_images for shard in findings.shards
        },
    }


def _entries(findings: Findings, are_problems: bool) -> dict[str, Any]:
    return {
        kind.name: {
            "what": kind.value,
            "count": findings.counts[kind],
            "examples": findings.examples[kind],
        }
        for kind in Kind
        if kind.is_problem == are_problems and findings.counts[kind]
    }


def to_text(report: Report) -> str:
    """Format a report for the terminal."""
    return "\n".join(
        [*_images(report), *_findings(report, "problems"), *_findings(report, "notes")]
    )


def _images(report: Report) -> Iterator[str]:
    per_shard, readable = report["images_per_shard"].values(), report["readable_images"]
    yield f"shards      {report['shards']:,}"
    yield (
        f"samples     {report['images']:,} with an image; "
        f"{min(per_shard):,} to {max(per_shard):,} per shard"
    )
    yield f"images      {readable:,} of {report['images']:,} can be read"
    yield "            shorter side, in pixels"
    steps = [*report["shorter_side"]]
    for first, last in zip(steps, [*steps[1:], None], strict=True):
        count = report["shorter_side"][first]
        if count:
            name = f"{first} to {int(last) - 1}" if last else f"{first} and more"
            yield f"            {name:>13}  {count:>11,}  {count / readable:6.1%}"


def _findings(report: Report, group: str) -> Iterator[str]:
    yield f"{group:<11} {'' if report[group] else 'none'}".rstrip()
    for entry in report[group].values():
        yield f"  {entry['count']:,} {entry['what']}"
        yield from (f"      {example}" for example in entry["examples"][:SHOWN_EXAMPLES])
        if entry["count"] > SHOWN_EXAMPLES:
            yield "      ..."
