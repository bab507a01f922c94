"""What may be shown of an address, a command or a text with them in it: no secrets."""

import os
import re
from collections.abc import Callable
from typing import Any

PIPE = "pipe:"
"""Prefix of a shard that is a shell command writing a tar to its standard output."""

NAME_OF_TAR = re.compile(r"[^/\s'\"=?&]+\.tar\b")

COMMAND = re.compile(rf"{PIPE}(?!\S+ \.\.\. )(.*)", re.DOTALL)
PROGRAM = re.compile(r"[\w./-]+(?=\s|$)")
USER = re.compile(r"(?<=://)[^/\s]*@")
QUERY = re.compile(r"(?<=://)([^\s?]*)\?\S*|\?[\w.~-]+=\S*")
ADDRESS = re.compile(r"\w[\w+.-]*://")

SECRET_VARIABLE = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|SIGNATURE|(API|ACCESS|PRIVATE|ACCOUNT)_?KEY", re.IGNORECASE
)
MIN_SECRET_CHARACTERS = 8
"""Length from which such a variable's value is replaced; shorter ones occur as ordinary words."""


def file_name(address: str) -> str:
    """Return the shard's file name in an address or a command, or `shard.tar` if it has none."""
    names = NAME_OF_TAR.findall(address)
    return names[-1] if names else "shard.tar"


def redact(text: str) -> str:
    """Remove what may be secret from an address, a path, a command, or a text with them in it.

    These are the user and the query of an address, the arguments of a command, and the values of
    environment variables with names such as MY_TOKEN, which become `$MY_TOKEN`. Everything that is
    printed, logged or published passes here. A text that has passed once stays as it is.
    """
    text = COMMAND.sub(_redact_command, text)
    text = USER.sub("", text)
    if ADDRESS.match(text) and " " not in text.partition("?")[0]:  # nothing but an address
        text = text.partition("?")[0]
    text = QUERY.sub(r"\1", text)
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name) and len(value) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value, f"${name}")
    return text


def redact_all(value: Any) -> Any:
    """Redact every text in nested lists and dictionaries, such as settings."""
    return map_texts(redact, value)


def map_texts(function: Callable[[str], str], value: Any) -> Any:
    """Copy nested lists and dictionaries with `function` applied to every text, keys excepted."""
    if isinstance(value, dict):
        return {name: map_texts(function, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [map_texts(function, inner) for inner in value]
    return function(value) if isinstance(value, str) else value


def _redact_command(found: re.Match[str]) -> str:
    program = PROGRAM.match(found[1].lstrip())
    return f"{PIPE}{program[0] if program else 'command'} ... {file_name(found[1])}"
