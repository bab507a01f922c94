"""The page in a real browser: it is drawn, loads nothing, and works with the keyboard."""

from dataclasses import replace
from pathlib import Path

import pytest
from browser import Tab, in_browser
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.page import write_page

RUN = [{"step": float(step), "val/psnr": 20.0 + step} for step in range(5)]
ARROW_RIGHT, END = ("ArrowRight", 39), ("End", 35)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("runs_draw_curves")]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Pictures of 48 pixels, one kept as a sample, one for its face."""
    found = tiny_evaluation(side=48)
    hostile = "<img src=http://127.0.0.1:9/x>" * 20
    images = replace(found.images, captions=(hostile,) * len(found.images.keys))
    write_page(tmp_path / "page.html", replace(found, images=images), runs={"after": RUN})
    return tmp_path / "page.html"


def test_it_is_drawn_at_every_width_without_a_request_or_a_complaint(
    tmp_path: Path, page: Path
) -> None:
    async def visit(tab: Tab) -> None:
        for width, dark in ((1200, False), (390, False), (390, True)):
            await tab.show(page, width=width, dark=dark)
            pictures = await tab.evaluate(
                "[...document.images].filter((i) => i.getAttribute('src'))"
                ".map((i) => [i.naturalWidth, i.naturalHeight, i.dataset.version || ''])"
            )
            sizes = [(w, h) for w, h, version in pictures if version]
            assert len(sizes) == 13
            assert set(sizes[:10]) == {(48, 48)}
            assert all(w > 0 and h > 0 for w, h, _ in pictures), "a picture that is not drawn"
            assert await tab.evaluate("document.documentElement.scrollWidth") == width
            paper = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(21, 23, 26)" if dark else "rgb(246, 247, 248)")
        assert {url.split(":")[0] for url in tab.requested} == {"file", "data"}
        assert [url for url in tab.requested if url.startswith("file:")] == [page.as_uri()] * 3
        assert not tab.complaints

    in_browser(tmp_path / "profile", visit)


def test_menu_slider_and_links_work_from_the_keyboard(tmp_path: Path, page: Path) -> None:
    async def visit(tab: Tab) -> None:
        await tab.show(page, width=1200)
        shown = "[...document.querySelectorAll('#pictures .card:not([hidden])')].map((c) => c.id)"
        assert await tab.evaluate(shown) == ["picture-0"]
        stage = "document.querySelector('#picture-0 .stage')"
        await tab.evaluate(f"{stage}.querySelector('input').focus()")
        await tab.press(*ARROW_RIGHT)
        assert await tab.evaluate(f"{stage}.style.getPropertyValue('--at')") == "51%"
        await tab.press(*END)
        assert await tab.evaluate(f"{stage}.style.getPropertyValue('--at')") == "100%"

        await tab.evaluate(
            "for (const select of document.querySelectorAll('select')) {"
            "  if (select.name === 'right') select.value = 'error 0';"
            "  select.dispatchEvent(new Event('change', {bubbles: true})); }"
        )
        assert await tab.evaluate(f"{stage}.querySelector('img.right').className") == "right heat"
        assert await tab.evaluate(
            f"{stage}.querySelector('img.right').src === document.querySelector("
            "'#picture-0 .strip img[data-version=\"error 0\"]').src"
        )

        # The face is of a picture that the menu does not show.
        await tab.evaluate("document.querySelector('#faces a').focus()")
        await tab.evaluate("document.activeElement.click()")
        for _ in range(100):
            if await tab.evaluate(shown) == ["picture-0", "picture-1"]:
                break
        assert await tab.evaluate(shown) == ["picture-0", "picture-1"]
        assert not tab.complaints

    in_browser(tmp_path / "profile", visit)


def test_without_a_script_all_pictures_stand_side_by_side(tmp_path: Path, page: Path) -> None:
    async def visit(tab: Tab) -> None:
        await tab.ask("Emulation.setScriptExecutionDisabled", value=True)
        await tab.show(page, width=1200)
        visible = (
            "[...document.querySelectorAll('#pictures .strip img')]"
            ".filter((i) => i.getBoundingClientRect().width > 100).length"
        )
        assert await tab.evaluate(visible) == 10
        for hidden in (".toolbar", ".stage"):
            display = f"getComputedStyle(document.querySelector('{hidden}')).display"
            assert await tab.evaluate(display) == "none"

    in_browser(tmp_path / "profile", visit)
