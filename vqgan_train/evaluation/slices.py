"""Slices of the dataset: the images whose caption, or another column, matches a pattern."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class SliceError(ValueError):
    """A slice cannot be made; the message says why."""


class SliceRule(NamedTuple):
    """Which images belong to a slice."""

    column: str
    """caption, key, source, or a key of the sample's json."""

    pattern: re.Pattern[str]
    """Found anywhere in the column's text."""


def slice_rule(name: str, column: str, pattern: str) -> SliceRule:
    """Compile a rule; upper and lower case are the same to it.

    Raises:
        SliceError: the pattern is no regular expression.
    """
    try:
        return SliceRule(column, re.compile(pattern, re.IGNORECASE))
    except re.error as error:
        raise SliceError(
            f"slices.{name}.pattern is {pattern!r}, no regular expression: {error}."
        ) from error


def columns_of(caption: str, key: str, source: str, metadata: bytes) -> Mapping[str, Any]:
    """The columns of one sample; those of its json, if it has one, and the three that all have.

    Args:
        caption: its caption.
        key: its key.
        source: its shard or file.
        metadata: the json field, perhaps empty or damaged.
    """
    try:
        read = json.loads(metadata) if metadata else {}
    except ValueError:
        read = {}
    said = read if isinstance(read, dict) else {}
    return {**said, "caption": caption, "key": key, "source": source}


def belongs(rule: SliceRule, columns: Mapping[str, Any]) -> bool | None:
    """Whether a sample is in a slice; None if it has no such column."""
    value = columns.get(rule.column)
    return None if value is None else bool(rule.pattern.search(str(value)))
