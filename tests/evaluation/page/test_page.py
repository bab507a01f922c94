"""Text and pictures of the page, and that it loads nothing."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tiny_evaluations import NAMES, tiny_evaluation

from vqgan_train.evaluation import page as evaluation_page
from vqgan_train.evaluation.page import QUALITIES, write_page
from vqgan_train.evaluation.page.cards import MAX_FACES, best_of, draw_cards, draw_faces
from vqgan_train.evaluation.page.diagrams import draw_usage
from vqgan_train.evaluation.page.jpeg import compress, error_map
from vqgan_train.evaluation.page.metric_table import MINUS, interval, make_groups, number
from vqgan_train.evaluation.report.metric_names import FACE_METRICS, IMAGE_METRICS, METRICS
from vqgan_train.evaluation.report.results import Evaluation, KeptPicture, Summary

SVG = "{http://www.w3.org/2000/svg}"
RUN = [{"step": float(step), "val/psnr": 20.0 + step} for step in range(5)]


class Page(HTMLParser):
    """Elements of a page with their attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._unread: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._unread = tag if tag in ("style", "script") else None

    def handle_endtag(self, tag: str) -> None:
        self._unread = None

    def handle_data(self, data: str) -> None:
        if self._unread is None:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, attribute: str) -> Iterator[str]:
        yield from (found[attribute] or "" for _, found in self.elements if attribute in found)


def draw(found: Evaluation, folder: Path, **given: Any) -> Page:
    write_page(folder / "page.html", found, **{"runs": {}, **given})
    return Page((folder / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture
def usage_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the usage of codes, which other tests skip for its cost."""
    monkeypatch.setattr(evaluation_page, "draw_usage", draw_usage)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """Page of the tiny evaluation, with the curves of a run and the usage of codes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_page, "draw_usage", draw_usage)
        return draw(tiny_evaluation(), folder, runs={"before": [], "after": RUN})


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Page of the tiny evaluation, with the curves of a run for both checkpoints."""
    folder = tmp_path_factory.mktemp("usual")
    return draw(tiny_evaluation(), folder, runs=dict.fromkeys(NAMES, RUN))


def changed_images(found: Evaluation, **given: Any) -> Evaluation:
    return replace(found, images=replace(found.images, **given))


def test_shards_that_lost_something_are_on_the_page(tmp_path: Path) -> None:
    found = tiny_evaluation()
    facts = replace(found.dataset, damaged_shards=("b.tar: damaged",), dead_shards=("c.tar: gone",))
    write_page(tmp_path / "page.html", replace(found, dataset=facts), runs={})
    text = (tmp_path / "page.html").read_text()
    assert "1 shard has lost samples." in text
    assert "1 shard holds nothing that could be read." in text
    assert "b.tar: damaged" in text
    assert "c.tar: gone" in text


def test_it_says_what_was_measured_of_what(page: Page) -> None:
    assert "before → after" in page.text
    assert "6 images of photos/*.tar, 16 \N{MULTIPLICATION SIGN} 16 pixels" in page.text
    assert "3 faces in 3 images (50.0%). 1 image could not be read." in page.text
    assert "00000.tar/x: cut off" in page.text
    for metric, shown in {**IMAGE_METRICS, **FACE_METRICS}.items():
        assert shown.label in page.text, metric
    assert f"Not measured: {METRICS['lpips_alex'].label} : no weights" in page.text
    assert "4.25 N = 6 *" in page.text
    assert "* of fewer than 2,048 images: comparable within this table" in page.text
    assert "+0.20 (+0.10 to +0.30) better in 75%" in page.text
    assert "slice people: 3 images" in page.text
    assert "faces, each by itself: 3 faces" in page.text
    assert "runs/after.ckpt" in page.text


def test_it_asks_for_nothing_and_forbids_it(page: Page, folder: Path) -> None:
    sources = [*page.values("src"), *page.values("href"), *page.values("srcset")]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    (policy,) = (content for content in page.values("content") if "default-src" in content)
    assert policy.startswith("default-src 'none'; img-src data:;")
    html = (folder / "page.html").read_text(encoding="utf-8")
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert not re.search(r"url\((?!#heat\))|@import", "".join(style))


def test_links_lead_somewhere_and_names_are_there_once(page: Page) -> None:
    names = list(page.values("id"))
    assert len(names) == len(set(names))
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(names)


def test_every_picture_has_its_size_and_a_description(page: Page) -> None:
    pictures = [found for tag, found in page.elements if tag == "img" and "data-version" in found]
    assert len(pictures) == 2 * (1 + 2 + 2) + 1 * 3  # two cards, one face
    for found in pictures:
        content = base64.b64decode((found["src"] or "").split(",", 1)[1])
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "JPEG"
            assert image.size == (int(found["width"] or 0), int(found["height"] or 0))
        assert found["alt"]


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    found = tiny_evaluation()
    hostile = '"><script>alert(1)</script>'
    found = changed_images(found, captions=(hostile,) * 6, keys=(hostile,) * 6)
    found = replace(found, dataset=replace(found.dataset, given=(hostile,)))
    page = draw(found, tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert hostile in page.text


def test_infinite_and_undefined_values_are_drawn_as_such(page: Page) -> None:
    assert "∞" in page.text
    assert "\N{EN DASH}" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)


def test_numbers_have_their_metrics_decimals_and_zero_no_sign() -> None:
    assert number("psnr", -1.005, sign="+") == f"{MINUS}1.00"
    assert number("lpips_vgg", -0.00001) == "0.0000"
    assert number("codes_used", 16_384.0) == "16,384"
    nothing = Summary(mean=np.nan, low=np.nan, high=np.nan, count=0, num_infinite=0)
    assert interval("psnr", nothing) == ""


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("psnr", 0.1, 0.3, "better"),
        ("psnr", -0.3, -0.1, "worse"),
        ("lpips_vgg", -0.3, -0.1, "better"),
        ("lpips_vgg", 0.1, 0.3, "worse"),
        ("lpips_vgg", -0.1, 0.3, "unclear"),
    ],
)
def test_a_change_is_judged_by_its_interval_and_the_metrics_direction(
    metric: str, low: float, high: float, verdict: str
) -> None:
    found = tiny_evaluation()
    summary = Summary(mean=(low + high) / 2, low=low, high=high, count=6, num_infinite=0)
    difference = replace(found.differences[0], metric=metric, change=summary)
    (group, *_) = make_groups(replace(found, differences=(difference,)))
    changes = [
        cell.change
        for line in group.lines
        for cell in line.cells
        if cell.change and line.label.startswith(METRICS[metric].label)
    ]
    assert [change.verdict for change in changes] == [verdict]


def test_best_knows_the_direction_ties_and_what_is_undefined() -> None:
    assert best_of("psnr", [1.0, np.inf]) == 1
    assert best_of("lpips_vgg", [0.1, 0.2]) == 0
    assert best_of("psnr", [2.0, 2.0]) is None
    assert best_of("psnr", [2.0, np.nan]) is None
    assert best_of("psnr", [2.0]) is None


def test_pictures_come_in_the_order_of_what_they_were_kept_for() -> None:
    found = tiny_evaluation()
    rows = [0, 2, 4]
    reasons = ("fixed", "worst lpips_vgg", "gained lpips_vgg")
    kept = [replace(found.pictures[0], row=row, reasons=reasons) for row in rows]
    cards = draw_cards(replace(found, pictures=tuple(kept)), 90)
    before, after = (checkpoint.values["lpips_vgg"] for checkpoint in found.checkpoints)

    def order(reason: str) -> list[int]:
        return [card.row for card in sorted(cards, key=lambda card: card.ranks[reason])]

    assert order("fixed") == rows
    assert order("worst lpips_vgg") == sorted(rows, key=lambda row: -after[row])
    assert order("gained lpips_vgg") == sorted(rows, key=lambda row: after[row] - before[row])


def test_error_maps_are_on_the_scale_that_is_said() -> None:
    dark = np.full((32, 48, 3), 100, dtype=np.uint8)
    for added, shown in ((0, 0), (16, 64), (64, 255), (120, 255)):
        jpeg = error_map(dark, dark + np.uint8(added))
        with Image.open(io.BytesIO(jpeg.content)) as image:
            assert image.size == (48, 32)
            assert image.mode == "L"
            assert np.abs(np.asarray(image, dtype=int) - shown).max() <= 1


def test_faces_are_square_cuts_around_their_boxes_the_largest_first() -> None:
    found = tiny_evaluation(images=60)
    random = np.random.default_rng(0)
    corners = random.integers(0, 12, (30, 2))
    sizes = random.integers(2, 5, (30, 2))
    found = changed_images(found, face_boxes=np.concatenate([corners, corners + sizes], axis=1))
    kept = [replace(found.pictures[0], row=row) for row in range(60)]
    faces = draw_faces(replace(found, pictures=tuple(kept)))
    assert len(found.images.face_images) == 30
    assert len(faces) == MAX_FACES
    sides = [face.side for face in faces]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == sizes.max()
    for face in faces:
        jpegs = [face.original, *face.reconstructions.values()]
        assert {(jpeg.width, jpeg.height) for jpeg in jpegs} == {(round(1.5 * face.side),) * 2}


def test_a_face_as_large_as_the_picture_is_cut_as_far_as_it_goes() -> None:
    found = changed_images(tiny_evaluation(), face_boxes=np.tile([[-2, 0, 16, 18]], (3, 1)))
    (face,) = draw_faces(found)
    assert (face.original.width, face.original.height) == (16, 16)


def photos(count: int, side: int) -> tuple[KeptPicture, ...]:
    """Draw pictures that compress like photos: coarse shapes and grain."""
    random = np.random.default_rng(0)

    def photo() -> Any:
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=int)
        grain = random.normal(0, 6, (side, side, 3))
        return np.clip(smooth + grain, 0, 255).astype(np.uint8)

    return tuple(
        KeptPicture(
            row=row,
            reasons=("fixed",),
            original=photo(),
            reconstructions={name: photo() for name in NAMES},
        )
        for row in range(count)
    )


def test_forty_pictures_can_be_mailed(tmp_path: Path) -> None:
    found = replace(tiny_evaluation(images=40), pictures=photos(40, 256))
    page = draw(found, tmp_path)
    assert (tmp_path / "page.html").stat().st_size < 10_000_000
    (quality,) = re.findall(r"JPEG of quality (\d+)", page.text)
    assert int(quality) in QUALITIES


def test_quality_gives_way_where_pictures_are_too_large(tmp_path: Path) -> None:
    found = replace(tiny_evaluation(), pictures=photos(2, 64))
    for limit, quality in ((10**9, QUALITIES[0]), (1, QUALITIES[-1])):
        assert f"JPEG of quality {quality};" in draw(found, tmp_path, picture_bytes=limit).text


def test_compressing_keeps_pixels_close() -> None:
    original = photos(1, 64)[0].original
    with Image.open(io.BytesIO(compress(original, 95).content)) as image:
        assert np.abs(np.asarray(image, dtype=int) - original).mean() < 4


def test_curves_are_there_where_a_run_is(tmp_path: Path, page: Page) -> None:
    assert "Training" not in draw(tiny_evaluation(), tmp_path).text
    assert "Training after" in page.text
    (curves,) = (
        found["src"]
        for tag, found in page.elements
        if tag == "img" and "that made after" in (found["alt"] or "")
    )
    assert curves is not None
    svg = base64.b64decode(curves.split(",", 1)[1]).decode()
    assert "PSNR" in svg
    assert "currentColor" in svg
    assert "prefers-color-scheme:dark" in svg


def test_checkpoints_of_one_run_share_its_curves(tmp_path: Path) -> None:
    page = draw(tiny_evaluation(), tmp_path, runs={"before": RUN, "after": list(RUN)})
    assert "Training before, after" in page.text
    (_, *more) = [alt for alt in page.values("alt") if "the run that made" in alt] + [None]
    assert more == [None]


@pytest.mark.parametrize("count", [1, 3])
def test_one_checkpoint_or_three_make_a_page_too(tmp_path: Path, count: int) -> None:
    found = tiny_evaluation()
    first, last = found.checkpoints
    many = (first, last, replace(last, name="third"))[:count]
    pictures = tuple(
        replace(kept, reconstructions={c.name: kept.original for c in many})
        for kept in found.pictures
    )
    differences = found.differences if count > 1 else ()
    found = replace(found, checkpoints=many, pictures=pictures, differences=differences)
    page = draw(found, tmp_path)
    assert " → ".join(checkpoint.name for checkpoint in many) in page.text
    assert ("Changes are against before" in page.text) == (count > 1)


def renamed(found: Evaluation, names: tuple[str, ...]) -> Evaluation:
    """Return the evaluation with other checkpoint names."""
    new = dict(zip(NAMES, names, strict=True))
    return replace(
        found,
        checkpoints=tuple(replace(c, name=new[c.name]) for c in found.checkpoints),
        differences=tuple(
            replace(d, before=new[d.before], after=new[d.after]) for d in found.differences
        ),
        pictures=tuple(
            replace(
                kept,
                reconstructions={new[name]: made for name, made in kept.reconstructions.items()},
            )
            for kept in found.pictures
        ),
    )


ODD_NAMES = (
    ("original", "error of original"),
    ("error 0", "checkpoint 0"),
    ("it's \"<b>'", "&amp; </option> --"),
    ("_hidden", "$x_{$ \\frac"),
    ("Z\u00fcrich \u5199\u771f", "\U0001f600  two  spaces"),
)


@pytest.mark.usefixtures("usage_drawn")
@pytest.mark.parametrize("names", ODD_NAMES)
def test_no_name_of_a_checkpoint_is_taken_for_something_else(
    tmp_path: Path, usual: Page, names: tuple[str, ...]
) -> None:
    found = renamed(tiny_evaluation(), names)
    page = draw(found, tmp_path, runs=dict.fromkeys(names, RUN))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in usual.elements]
    pictures = [found for tag, found in page.elements if tag == "img" and "data-version" in found]
    versions = [found["data-version"] for found in pictures[:5]]
    assert len(set(versions)) == 5
    assert [found["data-name"] for found in pictures[:5]] == [
        "original",
        *names,
        *(f"error of {name}" for name in names),
    ]
    options = [found["value"] for tag, found in page.elements if tag == "option"]
    assert [value for value in options if value in versions] == [
        *(versions[0], *versions[1:3]),
        *(*versions[1:3], *versions[3:], versions[0]),
    ]
    (usage,) = (
        found["src"] for _, found in page.elements if "How many codes" in (found.get("alt") or "")
    )
    svg = base64.b64decode((usage or "").split(",", 1)[1]).decode()
    drawn = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    for name in names:
        assert drawn.count(name) == 2


def test_runs_of_checkpoints_whose_names_hold_commas_are_all_drawn(tmp_path: Path) -> None:
    found = tiny_evaluation()
    names = ("a", "b", "a, b")
    many = tuple(replace(found.checkpoints[0], name=name) for name in names)
    found = replace(found, checkpoints=many, differences=(), pictures=())
    other = [{**row, "val/psnr": 30.0} for row in RUN]
    page = draw(found, tmp_path, runs={"a": RUN, "b": RUN, "a, b": other})
    assert len([alt for alt in page.values("alt") if "the run that made a, b." in alt]) == 2


def test_a_slice_of_one_image_or_none_is_sure_of_nothing(tmp_path: Path) -> None:
    found, nothing = tiny_evaluation(), float("nan")
    empty = Summary(mean=nothing, low=nothing, high=nothing, count=0, num_infinite=0)
    single = Summary(mean=0.5, low=nothing, high=nothing, count=1, num_infinite=0)
    checkpoints = tuple(
        replace(c, summaries={"all": {"psnr": single, "ssim": empty}}) for c in found.checkpoints
    )
    differences = (
        replace(found.differences[0], metric="psnr", change=single, share_better=1.0),
        replace(found.differences[0], metric="ssim", change=empty, share_better=nothing),
    )
    found = replace(found, checkpoints=checkpoints, differences=differences)
    psnr, ssim = make_groups(found)[0].lines[:2]
    dash = "\N{EN DASH}"
    assert psnr.cells[1][:2] == ("0.50", dash)
    assert psnr.cells[1].change == ("+0.50", dash, "unclear", "100%")
    assert ssim.cells[1][:2] == (dash, "")
    assert ssim.cells[1].change == (dash, "", "plain", "")
    page = draw(found, tmp_path)
    assert not re.search(r"\b(nan|inf)\b|nan%", page.text, re.IGNORECASE)
    assert not {"change better", "change worse"} & set(page.values("class"))


def test_a_pair_that_cannot_be_compared_has_a_dash_for_its_share() -> None:
    found = tiny_evaluation()
    difference = replace(found.differences[0], share_better=float("nan"))
    (line, *_) = make_groups(replace(found, differences=(difference,)))[0].lines
    assert line.cells[1].change is not None
    assert line.cells[1].change.share_better == "\N{EN DASH}"


def test_without_pictures_faces_or_anything_left_out_it_is_a_table(tmp_path: Path) -> None:
    found = tiny_evaluation()
    bare = [
        replace(
            checkpoint,
            face_values={},
            rfid={},
            summaries={"all": checkpoint.summaries["all"]},
        )
        for checkpoint in found.checkpoints
    ]
    found = changed_images(
        replace(found, checkpoints=tuple(bare), pictures=(), left_out=()),
        slices={},
        face_images=np.zeros(0, dtype=np.int64),
        face_boxes=np.zeros((0, 4), dtype=np.int64),
    )
    found = replace(found, dataset=replace(found.dataset, faces_looked_for=False, unreadable=()))
    page = draw(found, tmp_path)
    for word in ("Pictures", "Faces", "faces", "Not measured", "rFID"):
        assert word not in page.text


@pytest.mark.usefixtures("usage_drawn")
def test_the_same_evaluation_makes_the_same_page(tmp_path: Path, page: Page, folder: Path) -> None:
    again = draw(tiny_evaluation(), tmp_path, runs={"before": [], "after": RUN})
    assert again.text == page.text
    assert (tmp_path / "page.html").read_bytes() == (folder / "page.html").read_bytes()
