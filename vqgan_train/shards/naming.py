"""Which files are meant: lists, globs and brace patterns of shards become paths."""

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from braceexpand import braceexpand

from vqgan_train.system.errors import ShardError

GLOB_CHARACTERS = "*?["
SHOWN_AT_MOST = 5


PIPE = "pipe:"


def expand_sources(patterns: Sequence[str]) -> list[list[Path | str]]:
    """List the shards of each pattern: paths, and addresses of remote ones.

    Args:
        patterns: of paths as in `expand_shards`; or `scheme://...` or `pipe:COMMAND`, with braces.

    Raises:
        ShardError: as in `expand_shards`; or there is a glob in an address.
    """
    local = [pattern for pattern in patterns if not is_remote(pattern)]
    if local or not patterns:
        expand_shards(local)  # what is wrong with all of them together
    sources: list[list[Path | str]] = [
        [*_expand_address(pattern)] if is_remote(pattern) else [*expand_shards([pattern])]
        for pattern in patterns
    ]
    counts = Counter(shard for source in sources for shard in source)
    twice = [str(shard) for shard, count in counts.items() if count > 1]
    if twice:
        raise ShardError(f"Shards are named more than once: {_some(twice)}. Name each once.")
    return sources


def is_remote(pattern: str) -> bool:
    """Whether a pattern is an address or a command, and no path."""
    return "://" in pattern or pattern.startswith(PIPE)


def expand_shards(
    patterns: Sequence[str], *, noun: str = "shards", ending: str = ".tar"
) -> list[Path]:
    """List the shards that patterns name, in the order given; a glob's matches sorted.

    Args:
        patterns: paths of tar files, with `*`, `?`, `[...]` or `{000..099}` in them.
        noun: what to call them, where they are other files.
        ending: how their names end.

    Raises:
        ShardError: nothing is named, a file does not exist, is named twice, or is remote.
    """
    shards = [Path(path) for pattern in patterns for path in _expand(pattern)]
    if not shards:
        raise ShardError(f"No {noun} are given. Name at least one file.")
    folders = [str(shard) for shard in shards if shard.is_dir()]
    if folders:
        raise ShardError(
            f"{folders[0]} is a folder. Name the {noun} in it: {folders[0]}/*{ending}."
        )
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise ShardError(
            f"{len(missing)} of {len(shards)} {noun} do not exist: {_some(missing)}. Check the "
            f"pattern {_some(patterns)}; relative paths start at {Path.cwd()}."
        )
    counts = Counter(shard.resolve() for shard in shards)
    twice = [str(shard) for shard, count in counts.items() if count > 1]
    if twice:
        raise ShardError(f"Some {noun} are named more than once: {_some(twice)}. Name each once.")
    return shards


def _expand(pattern: str) -> Iterator[str]:
    if is_remote(pattern):
        raise ShardError(
            f"{pattern} is remote; here, only shards on disks of this machine are read. Copy them "
            "first."
        )
    for candidate in _expand_braces(str(Path(pattern).expanduser())):
        if any(character in candidate for character in GLOB_CHARACTERS):
            matches = sorted(glob.glob(candidate, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise ShardError(
                    f"No file matches {candidate}. Check the pattern; relative paths start at "
                    f"{Path.cwd()}."
                )
            yield from matches
        else:
            yield candidate


def _expand_address(pattern: str) -> list[str]:
    is_command = pattern.startswith(PIPE)
    if not is_command and any(character in pattern for character in "*["):
        raise ShardError(
            f"{pattern} has a glob in it, and a remote folder is not listed. Write braces: "
            "{000..099}."
        )
    return _expand_braces(pattern)


def _expand_braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise ShardError(f"The braces in {pattern} do not match. Write {{000..099}}.") from error


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_AT_MOST
    return ", ".join(names[:SHOWN_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def printable_name(name: str) -> str:
    """Escape a name unless all its characters are printable, to protect the terminal."""
    return name if name.isprintable() else ascii(name)
