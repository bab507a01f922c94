"""Templates: what is known is put in, what is not leaves no gap."""

import pytest

from vqgan_train.release.template import fill, inline

TEMPLATE = """\
# ${title}

?run It was logged at ${run}.
?!run It was not logged.
It took ${hours} hours.

?run   * A list

The end costs 5 $$.
"""


def test_places_take_their_values() -> None:
    filled = fill(TEMPLATE, {"title": "A", "run": "here", "hours": "3"})
    assert filled == (
        "# A\n\nIt was logged at here.\nIt took 3 hours.\n\n  * A list\n\nThe end costs 5 $.\n"
    )


def test_lines_without_a_value_are_left_out() -> None:
    filled = fill(TEMPLATE, {"title": "A", "run": None, "hours": None})
    assert filled == "# A\n\nIt was not logged.\n\nThe end costs 5 $.\n"


def test_a_value_is_not_a_template() -> None:
    filled = fill("${title}", {"title": "?run ${run}\n?!run x"})
    assert filled == "?run ${run}\n?!run x\n"


@pytest.mark.parametrize("template", ["${titel}", "?titel x", "?!titel x"])
def test_a_place_that_there_is_not_is_our_mistake(template: str) -> None:
    with pytest.raises(KeyError, match="titel"):
        fill(template, {"title": "A"})


def test_text_for_a_line_stays_in_it() -> None:
    assert inline("a\n# b") == "a # b"
    assert inline("`a` [b](c) <d> | e") == "a b(c) d e"
