"""Where things are kept that can be made again: shard indices, LPIPS weights, sample photos."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder for one kind of thing, under $XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqgan_train" / name
