"""Slices: any column, any pattern, and what has no such column."""

import pytest

from vqgan_train.evaluation.image_batches import SliceError, belongs, columns_of, slice_rule


def test_a_pattern_is_found_anywhere_and_in_any_case() -> None:
    rule = slice_rule("people", "caption", r"\b(?:man|woman)\b")
    for caption, expected in [("A Woman.", True), ("a human", False), ("", False)]:
        assert belongs(rule, columns_of(caption, "k", "s", b"")) is expected


def test_the_samples_json_gives_columns_that_others_have_not() -> None:
    rule = slice_rule("licensed", "license", "^cc")
    assert belongs(rule, columns_of("", "k", "s", b'{"license": "CC-BY"}')) is True
    assert belongs(rule, columns_of("", "k", "s", b'{"license": 3}')) is False
    for metadata in (b"", b"{}", b"[1]", b"{", b"\xff", b'{"license": null}'):
        assert belongs(rule, columns_of("", "k", "s", metadata)) is None


def test_the_json_does_not_take_the_captions_place() -> None:
    assert columns_of("ours", "k", "s", b'{"caption": "theirs"}')["caption"] == "ours"


def test_a_damaged_pattern_is_refused_by_name() -> None:
    with pytest.raises(SliceError, match=r"slices.dogs.pattern is '\(dog', no regular expression"):
        slice_rule("dogs", "caption", "(dog")
