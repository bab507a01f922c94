"""How a setting is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ConfigError(ValueError):
    """A setting is impossible; the message names it, what it is and what to change."""


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not holds:
        raise ConfigError(message)


def require_at_least(minimum: float, **values: float | None) -> None:
    """Require each value that is set to reach a minimum; `__` in a name stands for a dot."""
    for name, value in values.items():
        key = name.replace("__", ".")
        require(
            value is None or value >= minimum, f"{key} is {value}; it must be at least {minimum}."
        )


def as_size(name: str, value: Any) -> tuple[int, int]:
    """Pixels as height and width: one number for a square, or two.

    Raises:
        ConfigError: it is neither.
    """
    sides = [value, value] if isinstance(value, int) else value
    require(
        isinstance(sides, Sequence)
        and len(sides) == 2
        and all(isinstance(side, int) and side >= 1 for side in sides),
        f"{name} is {value}; it must be a number of pixels, at least 1, or [height, width].",
    )
    height, width = sides
    return height, width


def as_list(paths: Any) -> list[str]:
    """One path or pattern, or several, as a list."""
    several = isinstance(paths, Sequence | set) and not isinstance(paths, str)
    return [str(path) for path in paths] if several else [str(paths)]
