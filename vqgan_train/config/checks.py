"""Make checked, unchangeable settings from what Hydra composed, or refuse them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from vqgan_train.system.errors import UserError


class Frozen:
    """Base of settings whose fields are assigned once.

    Not `dataclass(frozen=True)`: OmegaConf would make the schema read-only, and Hydra could not
    merge the YAML files into it.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, name):
            raise FrozenInstanceError(f"{name} cannot be changed; use dataclasses.replace")
        object.__setattr__(self, name, value)


def require(holds: bool, message: str) -> None:
    """Raise UserError with the message unless the condition holds."""
    if not holds:
        raise UserError(message)


def require_at_least(minimum: float, **values: float | None) -> None:
    """Raise UserError for a value below a minimum; None passes, and `__` in a name means a dot."""
    for name, value in values.items():
        key = name.replace("__", ".")
        require(
            value is None or value >= minimum, f"{key} is {value}; it must be at least {minimum}."
        )


def as_size(name: str, value: Any) -> tuple[int, int]:
    """Return height and width in pixels from a setting: the side of a square, or [height, width].

    Raises:
        UserError: the value is neither, or a side is below 1.
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
    """Return paths or patterns as a list of texts; one becomes a list of one, null an empty one."""
    if paths is None:
        return []
    several = isinstance(paths, Sequence | set) and not isinstance(paths, str)
    return [str(path) for path in paths] if several else [str(paths)]


Settings = TypeVar("Settings")
"""Dataclass of a command's settings."""


def config_dir() -> Path:
    """Return the folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def register_schema(schema: type) -> None:
    """Let Hydra check a command's YAML files and overrides against its dataclass."""
    ConfigStore.instance().store(name="schema", node=schema)


def to_config(composed: DictConfig, schema: type[Settings]) -> Settings:
    """Return the checked settings of a command, given what Hydra composed.

    Raises:
        UserError: a key is unknown, a value is out of range, or two contradict each other.
        omegaconf.errors.MissingMandatoryValue: a mandatory value (`???`) was not given.
    """
    try:
        config = OmegaConf.to_object(composed)
    except AttributeError as error:  # only `slots` refuses a key that is added with +
        key = str(error).rpartition(" ")[2]
        message = f"There is no setting {key}, which + would add. --help lists all of them."
        raise UserError(message) from None
    assert isinstance(config, schema)
    return config


def plain_settings(config: object) -> dict[str, Any]:
    """Return a config as nested dictionaries of values that YAML can hold; enums by name."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def unknown_setting(name: str, known: Sequence[str]) -> str:
    """Describe that there is no setting of a name, with the known names that resemble it."""
    near = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no setting {name}.{hint} --help lists all of them."


def setting_names(schema: type, prefix: str = "") -> list[str]:
    """List the dotted names of all settings of a dataclass, groups included."""
    names = []
    hints = get_type_hints(schema)
    for field in fields(schema):
        name = f"{prefix}{field.name}"
        names.append(name)
        hint = hints[field.name]
        alternatives = getattr(hint, "__args__", (hint,))
        inner = next((kind for kind in alternatives if is_dataclass(kind)), None)
        if isinstance(inner, type):
            names += setting_names(inner, f"{name}.")
    return names
