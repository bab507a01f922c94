"""From the shell to a checked Config, and from an error to a page a person can use."""

import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_type_hints

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vqgan_train.config import Settings, config_dir, register_schema, setting_names, to_config
from vqgan_train.system.errors import LostRankError, UserError
from vqgan_train.system.launch import rank_of
from vqgan_train.system.processes import INTERRUPTED, LOST_RANK, USER_ERROR

WANDB_ERRORS = "wandb.errors"


class OverrideError(UserError):
    """The command line itself is at fault."""


def run_command(config_name: str, schema: type[Settings], job: Callable[[Settings], None]) -> None:
    """Compose the config from conf/ and the command line, check it, and do the job with it.

    Errors that a person can mend are shown without a traceback and end the process with exit code
    2.

    Args:
        config_name: the command's file in conf/.
        schema: the dataclass of its settings.
        job: what to do with them.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints errors and exits by itself
    register_schema(schema)

    def run_job(composed: DictConfig) -> None:
        # Inside of Hydra as well, which would print the overrides first.
        with _errors_explained(schema):
            job(to_config(composed, schema))

    # Hydra names its job after the function's module.
    run_job.__module__ = "vqgan_train"
    with _errors_explained(schema):
        sys.argv[1:] = quote_overrides(sys.argv[1:], schema)
        main = hydra.main(
            version_base="1.3", config_path=str(config_dir()), config_name=config_name
        )
        main(run_job)()


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
        if not is_users(error):
            raise
        rank = rank_of(os.environ)
        is_told_by_others = isinstance(error, LostRankError) and rank > 1  # of two, one is left
        if not is_told_by_others:
            where = f" of rank {rank}" if rank else ""
            sys.stderr.write(f"\nError{where}: {explain(error, schema)}\n")
        sys.exit(LOST_RANK if isinstance(error, LostRankError) else USER_ERROR)


def quote_overrides(arguments: Sequence[str], schema: type) -> list[str]:
    """Make values literal that Hydra's grammar refuses: braces, `=` in file names and the like.

    Raises:
        OverrideError: a setting is given twice, as happens when the shell expands {00..99} itself.
    """
    parser = OverridesParser.create()
    quoted = [_quote(argument, parser, schema) for argument in arguments]
    keys = Counter(a.split("=", 1)[0] for a in arguments if "=" in a and not a.startswith("-"))
    for key, count in keys.items():
        if count > 1:
            expanded = (
                " If the shell expanded a pattern like {00..99}, put quotes around it: "
                f"{key}='shards/{{00..99}}.tar'."
            )
            raise OverrideError(
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
    if type(parsed) in (int, float) and str(parsed) != value and not _is_number(key, schema):
        return f"{key}={_literal(value)}"
    return argument


def _is_number(setting: str, schema: type) -> bool:
    return _kinds(setting, schema)[0] in (int, float)


def _kinds(setting: str, schema: type) -> tuple[Any, ...]:
    """The type of a setting; where it may be null, NoneType as well."""
    kinds: tuple[Any, ...] = (schema,)
    for part in setting.lstrip("+").split("."):
        hint = get_type_hints(kinds[0]).get(part, object)
        kinds = getattr(hint, "__args__", (hint,))
    return kinds


def _literal(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & {*"[]\"'"}


def _literal_list(value: str) -> str:
    """Quote each element of a list; a comma inside braces does not end one."""
    elements = re.findall(r"(?:\{[^{}]*\}|[^,])+", value[1:-1])
    return f"[{','.join(_literal(element.strip()) for element in elements)}]"


def is_users(error: Exception) -> bool:
    """Whether an error is about what was given, as all that we define are, not a defect of ours."""
    return (
        isinstance(error, HydraException | OmegaConfBaseException | OSError)
        or type(error).__module__.startswith(("vqgan_train.", WANDB_ERRORS))
        or _is_from_composing(error)
    )


def _is_from_composing(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised it, in whatever class: they assert what users may type."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals["__name__"] if frame is not None else ""
    return str(module).split(".")[0] in ("hydra", "omegaconf")


def explain(error: Exception, schema: type) -> str:
    """One screen on what was set, what was found, what to change."""
    cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
    unknown = re.search(r"[Kk]ey '([^']+)' (?:is not in struct|not in '\w+')", str(cause))
    if unknown:
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
            f"The settings do not fit together ({str(error).splitlines()[0]}). A group takes a "
            "name, and settings of a group that is null, such as logger.wandb.project=..., need "
            "the group first: logger=wandb."
        )
    if type(error).__module__.startswith(WANDB_ERRORS):
        return f"W&B did not start ({error}). Mend that, or take logger.wandb.mode=offline."
    return _without_traceback(str(cause))


def _expected(setting: str, schema: type) -> str:
    kinds = _kinds(setting, schema)
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kinds[0])
    return f" Give {words}{' or null' if type(None) in kinds else ''}." if words else ""


def _without_traceback(message: str) -> str:
    """What an error of a loader process said, before torch wrapped it into its traceback."""
    if "\nOriginal Traceback" not in message:
        return message
    # The frames are indented, the error is not; the last traceback is of what came of the others.
    lines = message.rsplit("Traceback (most recent call last):", 1)[1].splitlines()[1:]
    first = next(n for n, line in enumerate(lines) if not line.startswith(" "))
    return "\n".join(lines[first:]).split(": ", 1)[-1].strip()


def _explain_unknown(key: str, error: Exception, schema: type) -> str:
    override = re.search(r"Could not override '([^']+)'", str(error))
    name = override[1] if override else key
    near = difflib.get_close_matches(name, setting_names(schema), n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no setting {name}.{hint} --cfg job shows all of them."
