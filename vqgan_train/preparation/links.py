"""Links to images in CC3M's and YFCC100M's files, and the lists that img2dataset reads."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vqgan_train.preparation.packing import in_chunks
from vqgan_train.preparation.yfcc_records import caption_of, read_jsonl
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import write_atomically

YFCC_FIELDS = ("title_clean", "description_clean", "downloadurl")
SCHEMES = ("http://", "https://")
MAX_EXAMPLES = 3


class Link(NamedTuple):
    """Address of an image, and its caption."""

    url: str
    caption: str


@dataclass(slots=True)
class BadRows:
    """Rows that contain no link."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    """File, line and beginning of the first few rows."""

    def add(self, example: str) -> None:
        """Count a row, and keep the text about it if it is one of the first."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


ReadLinks = Callable[[Path, BadRows], Iterator[Link]]
"""Function that yields the links of a file and adds rows without a link to `BadRows`."""


def is_link(text: str) -> bool:
    """Return whether a text is an address of the web, in lower or upper case."""
    return text.lower().startswith(SCHEMES)


def read_cc3m(path: Path, bad: BadRows) -> Iterator[Link]:
    """Read CC3M's TSV file: caption, tab, address; no header and no quoting.

    Args:
        path: the file.
        bad: gets the rows that contain no link.

    Raises:
        UserError: the file is not UTF-8 text, or has the columns of CC12M.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                caption, _, url = line.rstrip("\r\n").partition("\t")
                if is_link(url) and "\t" not in url:
                    yield Link(url, caption)
                elif number == 1 and is_link(caption):
                    raise UserError(
                        f"{path} has the address before the caption, as CC12M has. Give it in "
                        "CC3M's order: awk -F'\\t' -v OFS='\\t' '{print $2,$1}' "
                        f"'{path}' > '{path.stem}-swapped.tsv'"
                    )
                else:
                    bad.add(f"{path.name}, line {number}: {line.strip()[:60]!r}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}).") from error


def read_yfcc_links(path: Path, bad: BadRows) -> Iterator[Link]:
    """Read addresses and captions from YFCC100M's records, such as metadata_001.jsonl.gz.

    Args:
        path: the file.
        bad: gets the rows that contain no link.

    Raises:
        UserError: the file is damaged or has other fields.
    """
    for number, record in enumerate(read_jsonl(path, YFCC_FIELDS), start=1):
        url = record["downloadurl"] or ""
        if is_link(url):
            yield Link(url, caption_of(record))
        else:
            bad.add(f"{path.name}, line {number}: {url[:60]!r}")


def write_lists(
    paths: Sequence[Path], read: ReadLinks, folder: Path, *, rows: int
) -> tuple[list[int], BadRows]:
    """Write the links of all files to img2dataset's lists 00000.jsonl, 00001.jsonl, ...

    Args:
        paths: files of links.
        read: reads the links of one file.
        folder: folder of the lists.
        rows: links per list; the last list may have fewer.

    Returns:
        The number of links in each list, and the rows without a link.

    Raises:
        UserError: no file contains a link, or `read` refuses a file.
    """
    bad = BadRows()
    links = (link for path in paths for link in read(path, bad))
    counts = []
    for number, chunk in enumerate(in_chunks(links, rows)):
        # JSON, because img2dataset's CSV reader takes quotes in a caption for quotes around it.
        with write_atomically(folder / f"{number:05d}.jsonl") as file:
            file.writelines(f"{json.dumps(link._asdict())}\n".encode() for link in chunk)
        counts.append(len(chunk))
    if not counts:
        raise UserError(
            f"links={', '.join(map(str, paths))} has {bad.count} rows, none of them with a link: "
            f"{'; '.join(bad.examples) or 'it is empty'}."
        )
    return counts, bad
