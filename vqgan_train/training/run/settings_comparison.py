"""Compare the settings of two runs, or of two ranks."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vqgan_train.system.addresses import redact_all
from vqgan_train.system.errors import RunFolderError, as_typed

CHANGEABLE = re.compile(
    r"(?!run\.(seed|parent)$)(run|trainer|logger)\.|data\.(num_workers|train_shards|val_shards"
    r"|cache_dir|cache_gb|stall_seconds|attempts|patience_seconds)$"
)
"""Settings that may differ when a run resumes: they decide how long and where it trains.

The seed may not, because it orders the data: with another seed a run would repeat some samples and
skip others. Shards may have moved, because their fingerprint tells whether they are the same.
"""

ADDED: Mapping[str, Any] = {
    "data.exif_rotate": False,
    "data.image_field": None,
    "model.trained": "all",
    "optim.discriminator_learning_rate": None,
    "optim.discriminator_betas": None,
}
"""Settings that runs of earlier versions do not record, with the value that does what these runs
did. Whoever adds a setting that is not `CHANGEABLE` adds it here."""

MAX_DIFFERENCES_SHOWN = 8


def require_same_settings(
    problem: str, stored: Mapping[str, Any], settings: Mapping[str, Any], advice: str
) -> None:
    """Check that two runs' settings differ only in what is `CHANGEABLE`.

    Args:
        problem: the beginning of the message.
        stored: nested plain values of the earlier run.
        settings: nested plain values of the run that is to resume or continue it.
        advice: the end of the message.

    Raises:
        RunFolderError: other settings differ; the message names each with both values.
    """
    # Checkpoints store settings without secrets, so those are compared, and shown.
    different = different_settings(redact_all(stored), redact_all(settings), CHANGEABLE)
    if different:
        raise RunFolderError(f"{problem}:\n{differences(different, 'there', 'now')}\n{advice}")


def different_settings(
    one: Mapping[str, Any], other: Mapping[str, Any], may_differ: re.Pattern[str]
) -> dict[str, tuple[Any, Any]]:
    """Return both values of each setting that differs, by its dotted name.

    Settings whose names match `may_differ` are left out. A setting that one side lacks has the
    value of `ADDED` there, or else `absent`.
    """
    first, second = {**ADDED, **dict(_leaves(one))}, {**ADDED, **dict(_leaves(other))}
    both = {
        name: (first.get(name, "absent"), second.get(name, "absent"))
        for name in sorted(first.keys() | second.keys())
        if not may_differ.match(name)
    }
    return {name: (there, here) for name, (there, here) in both.items() if there != here}


def differences(different: Mapping[str, tuple[Any, Any]], one: str, other: str) -> str:
    """Return a line for each of the first few settings, and one that counts the others, if any.

    Args:
        different: result of `different_settings`.
        one: where the first value is, such as `there`.
        other: where the second value is, such as `now`.
    """
    lines = [
        f"  {name}: {as_typed(there)} {one}, {as_typed(here)} {other}"
        for name, (there, here) in different.items()
    ]
    more = len(lines) - MAX_DIFFERENCES_SHOWN
    shown = "\n".join(lines[:MAX_DIFFERENCES_SHOWN])
    return shown + (f"\n  and {more} more" if more > 0 else "")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
