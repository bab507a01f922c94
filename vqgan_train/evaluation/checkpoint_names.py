"""Short names for checkpoints, by what tells their paths or addresses apart."""

import re
from collections.abc import Sequence

SCHEME = re.compile(r"^\w+://")
ENDINGS = re.compile(r"\.(ckpt|pt|pth|safetensors|msgpack|bin)$")


TAKEN = {"", "slice"}
"""No names: images.csv calls slices `slice:NAME`, and values `CHECKPOINT:METRIC`."""


def checkpoint_names(sources: Sequence[str]) -> list[str]:
    """Name each: by its file, or by the folders in which its path differs from the others'.

    `runs/a/checkpoints/best.ckpt` and `runs/b/checkpoints/best.ckpt` become `a` and `b`; the same
    source twice gets numbers.
    """
    paths = [
        ENDINGS.sub("", SCHEME.sub("", source.partition("#")[0])).split("/") for source in sources
    ]
    names = [path[-1] for path in paths]
    if len(set(names)) < len(names):
        shared = set.intersection(*map(set, paths))
        names = ["/".join(part for part in path if part not in shared) for path in paths]
    if len(set(names)) < len(names) or TAKEN & set(names):
        names = [f"{path[-1]} {number}" for number, path in enumerate(paths, start=1)]
    return names
