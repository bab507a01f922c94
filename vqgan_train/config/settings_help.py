"""Pages of --help: every setting of a command, described by the docstrings of its dataclass."""

import ast
import inspect
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import groupby, takewhile
from textwrap import fill, wrap
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vqgan_train.config.checks import config_dir, unknown_setting
from vqgan_train.system.errors import UserError

TYPE_WORDS = {bool: "bool", int: "int", float: "float", str: "text"}
"""Words for the types of YAML values; others, such as a path or a list of paths, are `text`."""

MAX_DEFAULT = 12
"""Longest default that the overview shows whole, in characters."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of a command."""

    name: str
    """Dotted name, as on the command line."""

    type: str
    """Type in words, or the choices of an enum, separated by |."""

    default: str
    """Value with the given overrides, as YAML; `required` if the user must give one."""

    meaning: str
    """What the setting does, with its unit."""

    @property
    def group(self) -> str:
        """Return the dotted name without its last part; empty for a setting without a group."""
        return self.name.rpartition(".")[0]


def help_page(command: str, schema: type, arguments: Sequence[str]) -> str:
    """Return the page that --help prints.

    Args:
        command: name of the command's file in conf/.
        schema: dataclass of the command's settings.
        arguments: the other arguments. Overrides change the defaults that the page shows. The name
            of a setting or group asks for its full description instead of the overview.

    Raises:
        UserError: no setting or group has a given name.
    """
    overrides = [argument for argument in arguments if "=" in argument]
    names = [argument for argument in arguments if "=" not in argument]
    settings = list_settings(command, schema, overrides)
    if not names:
        return _overview(command, settings)
    return "\n".join(_describe(name, settings) for name in names)


def list_settings(command: str, schema: type, overrides: Sequence[str] = ()) -> list[Setting]:
    """List all settings of a command: first those that must be given, last those in groups.

    Args:
        command: name of the command's file in conf/.
        schema: dataclass of the command's settings.
        overrides: arguments that choose other values, such as `experiment=finetune`.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        composed = compose(command, overrides=list(overrides))
    settings = _settings_of(schema, OmegaConf.to_container(composed, enum_to_str=True), prefix="")
    return sorted(settings, key=lambda one: (one.group != "", one.default != "required"))


def read_header(command: str) -> tuple[str, list[str]]:
    """Return the purpose of a command and its examples, from the comment that begins its YAML."""
    text = (config_dir() / f"{command}.yaml").read_text()
    lines = [line[1:].strip() for line in takewhile(lambda s: s[:1] == "#", text.splitlines())]
    examples = [line for line in lines if line.startswith("python -m ")]
    return " ".join(line for line in lines if line not in examples), examples


def _settings_of(schema: type, defaults: Any, prefix: str) -> list[Setting]:
    hints, meanings = get_type_hints(schema), _field_docstrings(schema)
    settings = []
    for field in fields(schema):
        hint, name = hints[field.name], prefix + field.name
        default = None if defaults is None else defaults[field.name]
        inner = next((kind for kind in get_args(hint) or (hint,) if is_dataclass(kind)), None)
        if isinstance(inner, type):
            settings += _settings_of(inner, default, f"{name}.")
            continue
        enum = _enum_in(hint)
        choices = inspect.getdoc(enum) if enum else None
        meaning = f"{meanings.get(field.name, '')} {choices or ''}"
        settings.append(
            Setting(
                name=name,
                type=_type_in_words(hint),
                default=_as_yaml(default),
                meaning=" ".join(meaning.split()),
            )
        )
    return settings


def _enum_in(hint: Any) -> type[Enum] | None:
    kinds = [hint, *get_args(hint)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)), None)


def _type_in_words(hint: Any) -> str:
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        return f"list of {_type_in_words(get_args(hint)[0])}"
    if enum := _enum_in(hint):
        return "|".join(member.name for member in enum)
    return TYPE_WORDS.get(hint, "text")


def _as_yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    text = text.strip().removesuffix("...").strip().strip("'")
    return "required" if text == "???" else text


def _field_docstrings(schema: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, fields of its bases included.

    Python keeps no docstrings of fields, so they are read from the source.
    """
    docstrings: dict[str, str] = {}
    for base in reversed([base for base in schema.__mro__ if is_dataclass(base)]):
        definition = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    docstrings[name] = docstring
    return docstrings


def _overview(command: str, settings: Sequence[Setting]) -> str:
    """Return the command's purpose, its examples, and the first sentence on each setting."""
    width = max(shutil.get_terminal_size((100, 24)).columns, 80)
    purpose, examples = read_header(command)
    name_width = max(len(setting.name) - len(setting.group) for setting in settings)
    lines = [fill(purpose, width), "", *(f"  {line}" for line in examples)]
    for group, members in groupby(settings, lambda setting: setting.group):
        lines += ["", f"{group}." if group else "settings"]
        for setting in members:
            name = setting.name.rpartition(".")[2]
            kind = setting.type.split()[0] if "|" not in setting.type else "choice"
            default = _shorten(setting.default, MAX_DEFAULT)
            start = f"  {name:{name_width}} {kind:6} {default:{MAX_DEFAULT}} "
            sentence = setting.meaning.partition(". ")[0].removesuffix(".")
            indent = " " * len(start)
            lines += wrap(
                start + sentence, width, subsequent_indent=indent, max_lines=2, placeholder=" ..."
            )
    lines += ["", "--help NAME describes a setting or group in full; docs/settings.md lists all."]
    return "\n".join(lines) + "\n"


def _describe(name: str, settings: Sequence[Setting]) -> str:
    """Return the full descriptions of a setting, or of all settings of a group."""
    chosen = [s for s in settings if s.name == name or s.name.startswith(f"{name}.")]
    if not chosen:
        raise UserError(unknown_setting(name, [setting.name for setting in settings]))
    return "\n".join(
        f"{setting.name}\n  {setting.type}; {setting.default}\n"
        + fill(setting.meaning, 98, initial_indent="  ", subsequent_indent="  ")
        + "\n"
        for setting in chosen
    )


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"
