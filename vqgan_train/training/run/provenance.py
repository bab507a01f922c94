"""provenance."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = (
    "vqgan_train",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "webdataset",
    "numpy",
)


PROVENANCE = "vqgan_train"
"""Where a checkpoint says what made it."""


def provenance(
    settings: dict[str, Any], data: dict[str, Any], parent: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What made a checkpoint: settings, data, git revision, versions and the run before.

    Args:
        settings: nested plain values.
        data: plain values that describe the data.
        parent: what is known of the run that this one continues, its own provenance included.
    """
    return {
        "config": settings,
        "data": data,
        "parent": None if parent is None else dict(parent),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "command": sys.argv,
    }


def _git_revision() -> str:
    """The checkout's commit, marked if it was changed since; empty outside of one."""
    home = Path(__file__).parents[1]
    # An installed package may lie inside of somebody else's repository.
    if _git("rev-parse", "--show-toplevel") != str(home.resolve()):
        return ""
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str:
    """What git answers about the folder of this file; empty if there is no git or no repository."""
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
