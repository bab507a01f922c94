"""Provenance of a checkpoint: the settings, data and code that made it."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vqgan_train.system.addresses import redact_all

RECORDED_PACKAGES = (
    "vqgan_train",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "webdataset",
    "numpy",
)


PROVENANCE = "vqgan_train"
"""Key of the provenance in a checkpoint."""


def provenance(
    settings: dict[str, Any], data: dict[str, Any], parent: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Describe what makes a checkpoint: settings, data, parent run, code, versions and command.

    Checkpoints are shared, so the settings and the command are without secrets.

    Args:
        settings: nested plain values.
        data: plain values that describe the data.
        parent: the run that this one continues, with its own provenance; None: there is none.
    """
    return {
        "config": redact_all(settings),
        "data": data,
        "parent": None if parent is None else dict(parent),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "command": redact_all(sys.argv),
    }


def _git_revision() -> str:
    """Return this checkout's commit, with `-dirty` if files changed since; empty outside of one."""
    home = Path(__file__).parents[3]
    # An installed package may lie inside of somebody else's repository.
    if _git("rev-parse", "--show-toplevel") != str(home.resolve()):
        return ""
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str:
    """Return the output of git in this file's folder; empty if git is missing or fails."""
    try:
        output = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.stdout.strip()
