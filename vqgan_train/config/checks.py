"""How a setting is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from vqgan_train.system.errors import ConfigError


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


Settings = TypeVar("Settings")
"""The dataclass of a command's settings."""


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def register_schema(schema: type) -> None:
    """Let Hydra check a command's YAML files and overrides against its dataclass."""
    ConfigStore.instance().store(name="schema", node=schema)


def to_config(composed: DictConfig, schema: type[Settings]) -> Settings:
    """Turn what Hydra composed into the checked dataclass of a command.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
        omegaconf.errors.MissingMandatoryValue: a value is still `???`.
    """
    try:
        config = OmegaConf.to_object(composed)
    except AttributeError as error:  # a key added with +, which only `slots` refuses
        raise ConfigError(
            f"There is no such setting ({error}). --cfg job shows all of them."
        ) from None
    assert isinstance(config, schema)
    return config


def plain_settings(config: object) -> dict[str, Any]:
    """Turn a config into nested dictionaries of plain values, enums by name: what YAML can hold."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def setting_names(schema: type, prefix: str = "") -> list[str]:
    """Dotted names of all settings of a dataclass, groups included."""
    names = []
    hints = get_type_hints(schema)
    for field in fields(schema):
        name = f"{prefix}{field.name}"
        names.append(name)
        inner = next((t for t in _alternatives(hints[field.name]) if is_dataclass(t)), None)
        if isinstance(inner, type):
            names += setting_names(inner, f"{name}.")
    return names


def _alternatives(hint: Any) -> Sequence[Any]:
    return getattr(hint, "__args__", None) or (hint,)
