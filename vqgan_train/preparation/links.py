"""Lists of links: CC3M's TSV and YFCC100M's records, as img2dataset reads them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vqgan_train.preparation.packing import in_chunks
from vqgan_train.preparation.yfcc_records import caption_of, read_jsonl
from vqgan_train.system.errors import PreparationError
from vqgan_train.system.files import write_atomically

LINK_FIELDS = ("title_clean", "description_clean", "downloadurl")
SCHEMES = ("http://", "https://")
SHOWN_AT_MOST = 3


class Link(NamedTuple):
    """Where an image is, and what it shows."""

    url: str
    caption: str


@dataclass(slots=True)
class BadRows:
    """Rows that hold no link."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Where the first few are."""

    def add(self, place: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < SHOWN_AT_MOST:
            self.first.append(place)


ReadLinks = Callable[[Path, BadRows], Iterator[Link]]


def read_cc3m(path: Path, bad: BadRows) -> Iterator[Link]:
    """Read CC3M's TSV: caption, tab, address; no header and no quotes.

    Args:
        path: the file.
        bad: counts the rows that are something else.

    Raises:
        PreparationError: it is no text.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                caption, _, url = line.rstrip("\r\n").partition("\t")
                if url.startswith(SCHEMES) and "\t" not in url:
                    yield Link(url, caption)
                else:
                    bad.add(f"{path.name}, line {number}: {line.strip()[:60]!r}")
    except UnicodeDecodeError as error:
        raise PreparationError(f"{path} is no text in UTF-8 ({error}).") from error


def read_yfcc_links(path: Path, bad: BadRows) -> Iterator[Link]:
    """Read addresses and captions from YFCC100M's records, metadata_000.jsonl.gz or the like.

    Raises:
        PreparationError: it is damaged, or is something else.
    """
    for number, record in enumerate(read_jsonl(path, LINK_FIELDS), start=1):
        url = record["downloadurl"] or ""
        if url.startswith(SCHEMES):
            yield Link(url, caption_of(record))
        else:
            bad.add(f"{path.name}, line {number}: {url[:60]!r}")


def write_lists(
    paths: Sequence[Path], read: ReadLinks, folder: Path, *, rows: int
) -> tuple[list[int], BadRows]:
    """Write links as lists 00000.jsonl, 00001.jsonl, ...: img2dataset holds one in memory.

    JSON, because img2dataset's CSV reader takes quotes in captions for quotes around them.

    Args:
        paths: files of links.
        read: reads one.
        folder: of the lists.
        rows: links a list, at most.

    Returns:
        How many links are in each list, and the rows that were left out.

    Raises:
        PreparationError: there is no link in any file.
    """
    bad = BadRows()
    links = (link for path in paths for link in read(path, bad))
    counts = []
    for number, chunk in enumerate(in_chunks(links, rows)):
        with write_atomically(folder / f"{number:05d}.jsonl") as file:
            file.writelines(f"{json.dumps(link._asdict())}\n".encode() for link in chunk)
        counts.append(len(chunk))
    if not counts:
        raise PreparationError(
            f"There is no link in {', '.join(map(str, paths))}; {bad.count} rows are something "
            f"else: {'; '.join(bad.first)}."
        )
    return counts, bad
