"""Find a VQGAN's weights in a file: in one of its entries, behind a prefix, or in a larger model.

docs/export.md has a table of the layouts.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor

from vqgan_train.checkpoint.diffusers import CODEBOOK
from vqgan_train.checkpoint.unpickling import StandIn, printable_text
from vqgan_train.checkpoint.weight_names import to_original

STATE_DICT = "state_dict"
ENTRIES = (STATE_DICT, "model", "module", "generator", "params")
AVERAGED_ENTRIES = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema")
"""Entries of a file that hold weights as trained, and averages of them; the first one is read."""

FIRST_WEIGHT = "encoder.conv_in.weight"
"""A weight of every VQGAN; what precedes its name is the prefix of all its weights."""

OUR_CODEBOOK = "quantizer.codebook.weight"
"""A weight that a VQGAN has under our own names only."""

MAX_NAME, MAX_NAMES_SHOWN = 500, 8
"""Limits of a weight's characters, for which patterns would take long, and of a message's list."""

COMPILED = "._orig_mod."
"""Part of the names in a module that was compiled inside of another."""

AVERAGED = re.compile(r"(^|\.)(\w+_)?ema(_\w+)?\.")
"""Matches prefixes of averaged weights, such as `model_ema.`."""

AVERAGED_WEIGHT = re.compile(AVERAGED.pattern + r"(.*\.)?encoder\.?conv_in\.?weight$")
"""Matches names of `FIRST_WEIGHT`'s average; latent-diffusion's LitEma drops dots."""

AVERAGED_ADVICE = "To take the averaged ones instead, convert the file by export with averaged=true"


class TakenWeights(NamedTuple):
    """Weights that were found in a file."""

    weights: dict[str, Tensor]
    """Tensors without gradient, by names without the prefix."""

    others: dict[Any, Any]
    """The file's other entries, unchanged."""

    description: str
    """What was taken from where; empty for weights without prefix, alone or in `state_dict`."""


def take_weights(content: Any, *, averaged: bool = False) -> TakenWeights:
    """Take one model's weights out of a file's content.

    Args:
        content: what the file holds.
        averaged: take moving averages of the generator's weights instead of the weights as
            trained. If a file holds only averages, they are taken in any case.

    Raises:
        ValueError: the content is no dict with such weights, not all of them are plain tensors, or
            several models have an equal claim.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a value of type {_kind(content)}, not a dict of weights")
    entries = [name for name in (*ENTRIES, *AVERAGED_ENTRIES) if _has_weights(content.get(name))]
    averages = [name for name in entries if name in AVERAGED_ENTRIES]
    entry = next(iter((averaged and averages) or entries), None)
    weights = _plain_tensors(content, entry)
    prefix = _prefix(weights, averaged=averaged)
    taken = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    is_average = entry in AVERAGED_ENTRIES or AVERAGED.search(prefix) is not None
    if averaged and not is_average:
        taken, is_average = _averages_beside(taken), True
    elif not is_average:
        taken = {name: weight for name, weight in taken.items() if not AVERAGED.match(name)}
    if OUR_CODEBOOK in taken:
        with suppress(KeyError):  # what has other names, too, is refused as foreign later
            taken = to_original({f"generator.{name}": weight for name, weight in taken.items()})
    described = "" if entry in (None, STATE_DICT) else f" of its entry '{entry}'"
    described += f", those named '{printable_text(prefix)}*'" if prefix else ""
    if averages or any(AVERAGED_WEIGHT.search(name) for name in weights):
        described += ", averaged ones" if is_average else f", as trained. {AVERAGED_ADVICE}"
    return TakenWeights(
        weights=taken,
        others={} if entry is None else {k: v for k, v in content.items() if k != entry},
        description=described and f"took {len(taken)} of {len(weights)} weights{described}",
    )


def _has_weights(value: Any) -> bool:
    # A stand-in may be a tensor that is not plain, which has its own message.
    return isinstance(value, dict) and any(isinstance(w, Tensor | StandIn) for w in value.values())


def _plain_tensors(content: Mapping[Any, Any], entry: str | None) -> dict[str, Tensor]:
    weights = content if entry is None else content[entry]
    # A tuple may repeat a long text many times.
    keys = [type(key).__name__ if isinstance(key, tuple | frozenset) else key for key in content]
    names = ", ".join(map(printable_text, keys[:MAX_NAMES_SHOWN]))
    problem = f"it holds no weights in a state_dict; its first entries are: {names or 'none'}"
    if not weights or not all(isinstance(name, str) for name in weights):
        raise ValueError(problem)
    if any(len(name) > MAX_NAME for name in weights):
        raise ValueError(f"it has a weight whose name is longer than {MAX_NAME} characters")
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or weight.is_quantized:
            if entry is None and not isinstance(weight, Tensor | StandIn):
                raise ValueError(problem)
            raise ValueError(
                f"its weight {printable_text(name)} is no plain tensor, but of type "
                f"{_kind(weight)}. Save the weights as dense tensors on the CPU"
            )
    plain = {name.replace(COMPILED, "."): weight.detach() for name, weight in weights.items()}
    if len(plain) < len(weights):
        raise ValueError("it holds weights both as compiled and as not. Save the VQGAN's alone")
    return plain


def _prefix(weights: Mapping[str, Tensor], *, averaged: bool) -> str:
    """Return what precedes all names of the VQGAN to take; empty if it is not found."""
    ends = [name.removesuffix(FIRST_WEIGHT) for name in weights if name.endswith(FIRST_WEIGHT)]
    prefixes = [prefix for prefix in ends if prefix == "" or prefix.endswith(".")]
    preferences: tuple[Callable[[str], bool], ...] = (
        lambda prefix: (AVERAGED.search(prefix) is not None) == averaged,
        lambda prefix: f"{prefix}{CODEBOOK}" in weights,
        lambda prefix: prefix == "" or prefix.endswith("first_stage_model."),
        lambda prefix: prefix == "",
    )
    for preferred in preferences:
        prefixes = list(filter(preferred, prefixes)) or prefixes
    if len(prefixes) > 1:
        names = ", ".join(map(printable_text, prefixes[:MAX_NAMES_SHOWN]))
        raise ValueError(f"it holds several models, under {names}. Save the VQGAN's weights alone")
    return prefixes[0] if prefixes else ""


def _averages_beside(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the averages that latent-diffusion's LitEma saves beside; its names have no dots."""
    found = {
        name: weights[average]
        for name in weights
        if (average := f"model_ema.{name.replace('.', '')}") in weights
        and not name.startswith("loss.")
    }
    if not found:
        raise ValueError("it holds no averaged weights, which averaged=true asks for")
    return found


def _kind(value: Any) -> str:
    return printable_text(value.name if isinstance(value, StandIn) else type(value).__name__)
