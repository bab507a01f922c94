"""Between YAML and dataclasses: where the files are, checking them, writing settings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from vqgan_train.config.checks import ConfigError

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
