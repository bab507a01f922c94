"""Reading of links, and the lists that img2dataset reads."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vqgan_train.preparation.links import BadRows, read_cc3m, read_yfcc_links, write_lists
from vqgan_train.system.errors import UserError


def lists_in(folder: Path) -> list[list[dict[str, Any]]]:
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.iterdir())
    ]


CAPTIONS = (
    'a "quoted" word',
    '"',
    "an 'apostrophe",
    "comma, comma",
    "null",
    "  blanks ",
    "日本",
    "",
    "car\rriage",
)


def test_every_caption_and_address_of_cc3m_arrives(tmp_path: Path) -> None:
    schemes = ["HTTP", *["https"] * (len(CAPTIONS) - 1)]
    urls = [f"{s}://x.example/{n}.jpg?a=1,2&b=%20" for n, s in enumerate(schemes)]
    file = tmp_path / "cc3m.tsv"
    rows = [f"{caption}\t{url}" for caption, url in zip(CAPTIONS, urls, strict=True)]
    file.write_text("\ufeff" + "\r\n".join(rows), newline="")
    counts, bad = write_lists([file], read_cc3m, tmp_path / "lists", rows=3)
    assert counts == [3, 3, 3]
    assert bad.count == 0
    written = [link for rows in lists_in(tmp_path / "lists") for link in rows]
    assert [link["caption"] for link in written] == list(CAPTIONS)
    assert [link["url"] for link in written] == urls


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    file = tmp_path / "cc3m.tsv"
    file.write_text("one\u2028two\x85three\x0bfour\thttps://x.example/\n")
    write_lists([file], read_cc3m, tmp_path / "lists", rows=3)
    assert lists_in(tmp_path / "lists")[0][0]["caption"] == "one\u2028two\x85three\x0bfour"


def test_rows_without_a_link_are_counted_and_named(tmp_path: Path) -> None:
    rows = ["caption\turl", "a\thttp://x", "", "http://y\tb", "a\tb\thttp://z", "a\thttps://x"]
    rows.append("a\thttp://x\tmore")
    (tmp_path / "a.tsv").write_text("\n".join(rows))
    counts, bad = write_lists([tmp_path / "a.tsv"], read_cc3m, tmp_path / "lists", rows=9)
    assert counts == [2]
    assert bad.count == 5
    assert bad.examples == [
        r"a.tsv, line 1: 'caption\turl'",
        "a.tsv, line 3: ''",
        r"a.tsv, line 4: 'http://y\tb'",
    ]


@pytest.mark.parametrize("content", [b"", b"<html>\n", b"caption\tftp://x\n"])
def test_a_list_without_links_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tsv has \d rows, none of them with a link"):
        write_lists([tmp_path / "a.tsv"], read_cc3m, tmp_path / "lists", rows=9)


def test_the_order_of_cc12m_is_named_at_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_text("http://x.example/1.jpg\ta caption\n" * 3)
    with pytest.raises(UserError, match=r"cc12m\.tsv has the address before the caption") as raised:
        next(read_cc3m(tmp_path / "cc12m.tsv", BadRows()))
    command = str(raised.value).partition("order: ")[2]
    if shutil.which("awk"):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        (link,) = set(read_cc3m(tmp_path / "cc12m-swapped.tsv", BadRows()))
        assert link == ("http://x.example/1.jpg", "a caption")


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        write_lists([tmp_path / "a.tsv"], read_cc3m, tmp_path / "lists", rows=9)


def test_yfcc_links_carry_the_caption(tmp_path: Path) -> None:
    records = [
        {"title_clean": "Cat", "description_clean": "Mat", "downloadurl": "http://x/1.jpg"},
        {"title_clean": "Cat", "description_clean": "Mat", "downloadurl": None},
    ]
    with gzip.open(tmp_path / "m.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    counts, bad = write_lists(
        [tmp_path / "m.jsonl.gz"], read_yfcc_links, tmp_path / "lists", rows=9
    )
    assert (counts, bad.count) == ([1], 1)
    assert lists_in(tmp_path / "lists") == [[{"url": "http://x/1.jpg", "caption": "Cat. Mat"}]]
