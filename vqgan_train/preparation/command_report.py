"""What a command says at its end: each number under its name, and what to do next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from vqgan_train.preparation.choosing import Choice, Source, SourceCounts
from vqgan_train.preparation.img2dataset import DownloadReport
from vqgan_train.preparation.links import BadRows
from vqgan_train.preparation.packing import PackReport
from vqgan_train.system.files import write_atomically

SHOWN_AT_MOST = 8
NAME_WIDTH = 18


def line(name: str, value: object) -> str:
    """One line of a report."""
    return f"{name:<{NAME_WIDTH}}{value}"


def listed(counts: Counter[str]) -> str:
    """The most frequent of many, with how often: `12 x .txt, 1 x .csv`."""
    shown = [f"{count} x {what}" for what, count in counts.most_common(SHOWN_AT_MOST)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} other kinds" if more > 0 else "")


def packed(report: PackReport, output: Path) -> list[str]:
    """What became of the pictures that were packed; the list of the others is written."""
    lines = [
        line("packed", f"{report.packed} of {report.seen} images, {report.with_caption} captions"),
        line("shards", f"{len(list(output.glob('*.tar')))}: '{output}/*.tar'"),
    ]
    if report.left_out:
        reasons = [f"{reason}\t{name}" for name, reason in report.left_out.items()]
        file = write_lines(output / "left_out.tsv", reasons)
        lines.append(line("left out", f"{len(report.left_out)}: {listed(report.reasons())}"))
        lines.append(line("", f"by name in {file}"))
    return lines


def downloaded(report: DownloadReport, bad: BadRows, shards: Path, removed: int) -> list[str]:
    """What img2dataset left, without the shards that were removed because they had no image."""
    share = report.downloaded / report.links
    lines = [
        line("links", f"{report.links}"),
        line("downloaded", f"{report.downloaded} ({share:.1%})"),
        line("failed", f"{report.links - report.downloaded}"),
        *(line("", f"{count} x {why}") for why, count in report.reasons.most_common(SHOWN_AT_MOST)),
    ]
    rarer = report.reasons.most_common()[SHOWN_AT_MOST:]
    if rarer:
        others = sum(count for _, count in rarer)
        lines.append(line("", f"{others} x {len(rarer)} other reasons"))
    if bad.count:
        lines.append(line("rows left out", f"{bad.count}, no links: {'; '.join(bad.first)}"))
    num_shards = len(list(shards.glob("*.tar")))
    lines.append(line("shards", f"{num_shards}: '{shards}/*.tar'"))
    if removed:
        lines.append(line("", f"{removed} more without any image, removed"))
    return lines


def chosen(choice: Choice, sources: Sequence[Source], output: Path) -> list[str]:
    """What each source held and gave; the list of what could not be read is written."""
    bad = [name for source in sources for name in source.survey.bad]
    lines = _table(choice)
    if bad:
        file = write_lines(output / "unreadable.txt", bad)
        lines.append(line("unreadable", f"by name in {file}, for example {bad[0]}"))
    lines.append(line("origins", f"{output}/*/*.tsv: of each sample its source, shard and key"))
    settings = [f"data.train_shards='{output}/train/*.tar'"]
    if len(choice.validation):
        settings.append(f"data.val_shards='{output}/val/*.tar'")
    return [*lines, line("train with", " ".join(settings))]


def _table(choice: Choice) -> list[str]:
    counts = list(choice.counts.values())
    heads = [*choice.counts, "all"]
    width = max(10, *(len(head) + 2 for head in heads))
    lines = [line("", "".join(f"{head:>{width}}" for head in heads))]
    for field in fields(SourceCounts):
        numbers = [getattr(count, field.name) for count in counts]
        row = "".join(f"{number:>{width}}" for number in [*numbers, sum(numbers)])
        lines.append(line(field.name.replace("_", " "), row))
    return lines


def write_report(output: Path, lines: Sequence[str]) -> None:
    """Keep what was said."""
    write_lines(output / "report.txt", lines)


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write lines of text; returns the path."""
    with write_atomically(path) as file:
        file.writelines(f"{text}\n".encode("utf-8", "backslashreplace") for text in lines)
    return path
