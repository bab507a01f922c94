"""Expand lists, globs and brace patterns to shards; name shards and samples in messages."""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from braceexpand import braceexpand

from vqgan_train.system.addresses import PIPE
from vqgan_train.system.errors import ShardError

GLOB_CHARACTERS = "*?["
MAX_NAMES_SHOWN = 5

IPV6_HOST = re.compile(r"://\[[\da-fA-F:.%]+\]")
COMMAND_BRACES = re.compile(r"((?<!\$)\{[^{}\s$'\"]*(?:,|\.\.)[^{}\s$'\"]*\})")
"""Braces in a command that name several shards, unlike those of `awk '{print $1,$2}'`."""


def expand_sources(patterns: Sequence[str]) -> list[list[Path | str]]:
    """List the shards of each pattern: local ones as paths, remote ones as addresses.

    Args:
        patterns: paths as in `expand_shards`; `scheme://...` or `pipe:COMMAND`, with braces.

    Raises:
        ShardError: as in `expand_shards`, apart from addresses; or an address contains a glob.
    """
    local = [pattern for pattern in patterns if not is_remote(pattern)]
    if local or not patterns:
        expand_shards(local)  # one message names the missing files of all patterns
    sources: list[list[Path | str]] = [
        [*_expand_address(pattern)] if is_remote(pattern) else [*expand_shards([pattern])]
        for pattern in patterns
    ]
    _refuse_repetitions("shards", [shard for source in sources for shard in source])
    return sources


def is_remote(pattern: str) -> bool:
    """Return whether a pattern is an address or a command rather than a path."""
    return "://" in pattern or pattern.startswith(PIPE)


def expand_shards(
    patterns: Sequence[str], *, noun: str = "shards", ending: str = ".tar"
) -> list[Path]:
    """List the local files that patterns name, in the given order; a glob's matches are sorted.

    Args:
        patterns: paths of tar files, which may contain `*`, `?`, `[...]` or `{000..099}`.
        noun: name of the files in messages, if they are not shards.
        ending: ending of the file names, which the message about a folder suggests.

    Raises:
        ShardError: there is no pattern, a pattern matches no file, its braces do not match, or a
            file is missing, a folder, named twice or remote.
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
            f"{len(missing)} of {len(shards)} {noun} do not exist: {_first_few(missing)}. Check "
            f"the pattern {_first_few(patterns)}; relative paths start at {Path.cwd()}."
        )
    _refuse_repetitions(noun, [shard.resolve() for shard in shards])
    return shards


def _expand(pattern: str) -> Iterator[str]:
    if is_remote(pattern):
        raise ShardError(
            f"{pattern} is remote, but this command reads only files on this machine. Download "
            "it first."
        )
    for candidate in _expand_braces(str(Path(pattern).expanduser())):
        is_glob = any(character in candidate for character in GLOB_CHARACTERS)
        if is_glob and not Path(candidate).exists():
            # Brackets in the name of a folder that exists, such as `x [1]`, are no pattern.
            folder = next(parent for parent in Path(candidate).parents if parent.exists())
            rest = str(Path(candidate).relative_to(folder))
            found = glob.glob(rest, root_dir=folder, recursive=True)  # noqa: PTH207 - as in a shell
            matches = sorted(str(folder / name) for name in found)
            if not matches:
                raise ShardError(
                    f"No file matches {candidate}. Check the pattern; relative paths start at "
                    f"{Path.cwd()}."
                )
            yield from matches
        else:
            yield candidate


def _expand_address(pattern: str) -> list[str]:
    if pattern.startswith(PIPE):
        parts = COMMAND_BRACES.split(pattern)
        choices = [braceexpand(p) if COMMAND_BRACES.fullmatch(p) else [p] for p in parts]
        return ["".join(chosen) for chosen in product(*choices)]
    # `?` is no sign of a glob, because it begins the query of a URL.
    if any(character in IPV6_HOST.sub("://", pattern) for character in "*["):
        raise ShardError(
            f"{pattern} contains a glob, but remote folders cannot be listed. Use braces instead: "
            "{000..099}."
        )
    return _expand_braces(pattern)


def _expand_braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise ShardError(f"The braces in {pattern} do not match. Write {{000..099}}.") from error


def _refuse_repetitions(noun: str, shards: Sequence[Path | str]) -> None:
    repeated = [str(shard) for shard, count in Counter(shards).items() if count > 1]
    if repeated:
        raise ShardError(
            f"Some {noun} are named more than once: {_first_few(repeated)}. Name each once."
        )


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def printable_name(name: str) -> str:
    """Return a printable name as it is, and any other in quotes with escapes."""
    return name if name.isprintable() else ascii(name)
