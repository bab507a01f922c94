"""Slices: any column and any pattern, and samples without the column."""

import pytest

from vqgan_train.evaluation.image_batches import sample_columns, slice_rule
from vqgan_train.images.locations import EncodedImage
from vqgan_train.system.errors import UserError


def encoded(caption: str = "", metadata: bytes = b"") -> EncodedImage:
    return EncodedImage("name", "k", caption, "s", b"", metadata)


def test_a_pattern_matches_anywhere_and_in_any_case() -> None:
    rule = slice_rule("people", "caption", r"\b(?:man|woman)\b")
    for caption, expected in [("A Woman.", True), ("a human", False), ("", False)]:
        assert rule.matches(sample_columns(encoded(caption))) is expected


def test_the_json_of_a_sample_adds_columns() -> None:
    rule = slice_rule("licensed", "license", "^cc")
    assert rule.matches(sample_columns(encoded(metadata=b'{"license": "CC-BY"}'))) is True
    assert rule.matches(sample_columns(encoded(metadata=b'{"license": 3}'))) is False
    for metadata in (b"", b"{}", b"[1]", b"{", b"\xff", b'{"license": null}'):
        assert rule.matches(sample_columns(encoded(metadata=metadata))) is None


def test_the_json_does_not_replace_the_caption() -> None:
    columns = sample_columns(encoded("ours", b'{"caption": "theirs"}'))
    assert (columns["caption"], columns["key"], columns["source"]) == ("ours", "k", "s")


def test_an_invalid_pattern_is_refused_with_the_name_of_its_slice() -> None:
    message = r"slices.dogs.pattern is '\(dog', which is not a regular expression"
    with pytest.raises(UserError, match=message):
        slice_rule("dogs", "caption", "(dog")
