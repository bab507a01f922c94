"""Run a command: check its settings, and hide the traceback of errors that the user can fix."""

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from traceback import format_exception
from typing import Any, get_type_hints

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vqgan_train.config.checks import (
    config_dir,
    plain_settings,
    register_schema,
    setting_names,
    to_config,
    unknown_setting,
)
from vqgan_train.config.settings_help import help_page
from vqgan_train.system.addresses import redact
from vqgan_train.system.errors import LostRankError, UnavailableShardError, UserError, first_line
from vqgan_train.system.exit_codes import INTERRUPTED, LOST_RANK, SOURCE_UNAVAILABLE, USER_ERROR
from vqgan_train.system.launch import rank_of
from vqgan_train.system.path_errors import explain_path_error

HELP = {"--help", "-h"}

WANDB_ERRORS = "wandb.errors"
"""Module of W&B's errors, compared by name so that it need not be imported."""


def run_command(config_name: str, schema: type, job: str) -> None:
    """Compose the settings from conf/ and the command line, check them, and do the job with them.

    --help prints the settings instead. An error that the user can fix is shown without its
    traceback. It ends the process with exit code 2, or 70 if another process of the command has
    exited, or 69 if a source of shards failed in a way that may pass.

    Args:
        config_name: name of the command's file in conf/.
        schema: dataclass of the command's settings.
        job: name of the function to call with the settings, as MODULE:FUNCTION. Its module, which
            imports torch for seconds, is only imported once the settings are checked.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints errors and exits by itself
    register_schema(schema)
    sys.excepthook = _show_defect
    warnings.formatwarning = _redacted_warning

    def run_job(composed: DictConfig) -> None:
        # Errors are explained here, too: Hydra prints the overrides before it passes errors on.
        with _errors_explained(schema):
            sys.argv[1:] = map(redact, sys.argv[1:])  # Hydra has read it; W&B and logs store it
            config: object = to_config(composed, schema)
            try:
                resolve_name(job)(config)
            except OSError as error:
                explanation = explain_path_error(error, plain_settings(config))
                if explanation is None:  # a defect of ours
                    raise
                raise UserError(explanation) from error

    # Hydra names its job after this function's module.
    run_job.__module__ = "vqgan_train"
    with _errors_explained(schema):
        sys.argv[1:] = quote_overrides(sys.argv[1:], schema)
        if asked := HELP & {*sys.argv[1:]}:
            arguments = [argument for argument in sys.argv[1:] if argument not in asked]
            sys.stdout.write(help_page(config_name, schema, arguments))
            return
        main = hydra.main(
            version_base="1.3", config_path=str(config_dir()), config_name=config_name
        )
        main(run_job)()


def _show_defect(*error: Any) -> None:
    """Print the traceback of a defect of ours, without secrets."""
    sys.stderr.write(redact("".join(format_exception(*error))))


def _redacted_warning(*parts: Any, _format: Any = warnings.formatwarning, **line: Any) -> str:
    return redact(_format(*parts, **line))


@contextmanager
def _errors_explained(schema: type) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning answers Ctrl-C with exit code 1, which schedulers take for a failure.
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
    except Exception as error:
        if not user_can_fix(error):
            raise
        rank = rank_of(os.environ)
        is_told_by_others = isinstance(error, LostRankError) and rank > 1  # rank 0 or 1 tells
        if not is_told_by_others:
            where = f" of rank {rank}" if rank else ""
            sys.stderr.write(redact(f"\nError{where}: {explain(error, schema)}\n"))
        if isinstance(error, LostRankError):
            sys.exit(LOST_RANK)
        is_away = isinstance(error, UnavailableShardError)
        sys.exit(SOURCE_UNAVAILABLE if is_away else USER_ERROR)


def quote_overrides(arguments: Sequence[str], schema: type) -> list[str]:
    """Quote values that Hydra would refuse ({00..99}, a=b.tar) or take for numbers (1e3).

    Every override is parsed twice: here, to see whether its value needs quotes, and by Hydra, which
    reads only the texts in `sys.argv`.

    Raises:
        UserError: a setting is given twice, as happens when the shell expands {00..99} itself, or
            is deleted with ~.
    """
    names = setting_names(schema)
    for argument in arguments:
        name = argument[1:].partition("=")[0]
        if argument.startswith("~") and name in names:
            raise UserError(
                f"{argument} would delete {name}, but a command needs all of its settings. Leave "
                f"{argument} out, which keeps the default, or give {name} another value."
            )
    parser = OverridesParser.create()
    quoted = [_quote(argument, parser, schema) for argument in arguments]
    keys = Counter(a.split("=", 1)[0] for a in arguments if "=" in a and not a.startswith("-"))
    for key, count in keys.items():
        if count > 1:
            expanded = (
                " If the shell expanded a pattern like {00..99}, put quotes around it: "
                f"{key}='shards/{{00..99}}.tar'."
            )
            raise UserError(
                f"{key} is given {count} times; give it once."
                + (expanded if key.endswith("shards") else "")
            )
    return quoted


def _quote(argument: str, parser: OverridesParser, schema: type) -> str:
    key, separator, value = argument.partition("=")
    if argument.startswith("-") or not separator:
        return argument
    try:
        parsed = parser.parse_override(argument).value()
    except HydraException:
        return f"{key}={_literal_list(value) if _is_list(value) else _literal(value)}"
    # A folder called 1e3 or 1.10 would become 1000.0 or 1.1.
    is_read_as_number = type(parsed) in (int, float) and str(parsed) != value
    if is_read_as_number and _types_of(key, schema)[0] not in (int, float):
        return f"{key}={_literal(value)}"
    return argument


def _types_of(setting: str, schema: type) -> tuple[Any, ...]:
    """List the types of a setting, or of a list's elements; NoneType is one if it may be null."""
    types: tuple[Any, ...] = (schema,)
    for part in setting.lstrip("+").split("."):
        hint = get_type_hints(types[0]).get(part, object)
        types = getattr(hint, "__args__", (hint,))
    return types


def _literal(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & {*"[]\"'"}


def _literal_list(value: str) -> str:
    """Quote each element of a list; a comma inside braces does not end an element."""
    elements = re.findall(r"(?:\{[^{}]*\}|[^,])+", value[1:-1])
    return f"[{','.join(_literal(element.strip()) for element in elements)}]"


def user_can_fix(error: Exception) -> bool:
    """Return whether the user can fix an error; otherwise it is a defect of ours."""
    return (
        isinstance(error, UserError | HydraException | OmegaConfBaseException)
        or type(error).__module__.startswith(WANDB_ERRORS)
        or _is_from_composing(error)
    )


def _is_from_composing(error: Exception) -> bool:
    """Return whether Hydra or OmegaConf raised an error.

    For some invalid overrides they raise Python's own errors, such as AssertionError.
    """
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals["__name__"] if frame is not None else ""
    return str(module).split(".")[0] in ("hydra", "omegaconf")


def explain(error: Exception, schema: type) -> str:
    """Describe an error that the user can fix: what was set, what was found, what to change."""
    cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    unknown = re.search(r"[Kk]ey '([^']+)' (?:is not in struct|not in '\w+')", str(cause))
    if unknown and not isinstance(error, UserError):
        return _explain_unknown(unknown[1], error, schema)
    if isinstance(cause, MissingMandatoryValue):
        name = cause.full_key
        explained = getattr(schema, "EXPLAINED", {}).get(name, "")
        return f"{name} has no value yet. Give it one: {name}=... {explained}".rstrip()
    if isinstance(cause, OmegaConfBaseException):
        setting = f"{cause.full_key}: " if cause.full_key else ""
        expected = _expected(cause.full_key, schema) if cause.full_key else ""
        return f"{setting}{str(cause.msg).splitlines()[0].rstrip('.')}.{expected}"
    if _is_from_composing(error) and not isinstance(error, HydraException):
        return (
            f"The settings do not fit together ({first_line(error)}). Give a group the name of a "
            "file, such as loss=vqgan. Choose a group before you set anything in it: "
            "logger.wandb.project=... needs logger=wandb."
        )
    if type(error).__module__.startswith(WANDB_ERRORS):
        return f"W&B did not start ({error}). Fix that, or set logger.wandb.mode=offline."
    return str(cause)


def _expected(setting: str, schema: type) -> str:
    types = _types_of(setting, schema)
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(types[0])
    return f" Give {words}{' or null' if type(None) in types else ''}." if words else ""


def _explain_unknown(key: str, error: Exception, schema: type) -> str:
    override = re.search(r"Could not override '([^']+)'", str(error))
    name = override[1] if override else key
    return unknown_setting(name, setting_names(schema))
