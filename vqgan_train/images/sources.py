"""Parquet tables that name image files, and perhaps their captions."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vqgan_train.images.folders import image_files, look_through, printable
from vqgan_train.images.locations import (
    FilePlace,
    Place,
    RemotePlace,
    ShardPlace,
    StoreSettings,
    open_store,
)
from vqgan_train.shards.index import ShardIndex
from vqgan_train.shards.index import fingerprint as shards_fingerprint
from vqgan_train.shards.remote.opening import open_to_stream
from vqgan_train.shards.remote.store import RemoteShard
from vqgan_train.system.errors import PreparationError, TokenError
from vqgan_train.system.jobs import fingerprint, stamp
from vqgan_train.system.packages import require_pyarrow


def table_places(tables: Sequence[Path], columns: Sequence[str]) -> Iterator[Place]:
    """Go through the rows of tables.

    Args:
        tables: parquet files.
        columns: of the path, and perhaps of the caption.

    Raises:
        TokenError: a table cannot be read any more.
    """
    number = 0
    for table in tables:
        for row in _rows(table, columns):
            path, *captions = (row[name] or "" for name in columns)
            caption = captions[0].strip() if captions else None
            yield FilePlace(number, table.parent / path, path, caption)
            number += 1


def _rows(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches(columns=[*columns]):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise TokenError(f"{table} cannot be read any more: {error}") from error


def count_rows(table: Path, columns: Sequence[str]) -> int:
    """Count the rows of a table that has certain columns of strings.

    Raises:
        TokenError: it cannot be read, or lacks one.
    """
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(table) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (ArrowException, OSError) as error:
        raise TokenError(f"{table} cannot be read as parquet: {error}") from error
    for column in columns:
        if column not in schema.names:
            raise TokenError(
                f"{table} has the columns {', '.join(schema.names)}, and no {column}. "
                "Set path_column and caption_column."
            )
        kind = str(schema.field(column).type)
        if kind not in ("string", "large_string"):
            raise TokenError(f"The column {column} of {table} holds {kind}, not strings.")
    return int(rows)


FEWEST_DIGITS = 3


class Part(NamedTuple):
    """Samples that become one file."""

    name: str
    """001, 002, ...: with as many digits as the last one needs."""

    places: list[Place]


class Damage(NamedTuple):
    """Samples that were lost before any was read."""

    shards: int
    """Of any kind."""

    dead: list[str]
    """Those of which nothing is left, and why."""

    partly: list[str]
    """Those that have lost an end, and how."""


NO_DAMAGE = Damage(0, [], [])
"""Of what are no shards."""


class Source(NamedTuple):
    """Samples in an order that is the same every time."""

    fingerprint: str
    """Changes when they do."""

    sizes: list[int]
    """Samples of each part."""

    places: Callable[[], Iterator[Place]]
    """Goes through all of them."""

    changed: Callable[[], str]
    """Looks at the files again, and names what is not as it was; empty if all is."""

    damage: Damage
    """Of its shards."""

    def part_names(self) -> list[str]:
        """One a part."""
        digits = max(FEWEST_DIGITS, len(str(len(self.sizes))))
        return [f"{number:0{digits}d}" for number in range(1, len(self.sizes) + 1)]

    def parts(self, wanted: set[str]) -> Iterator[Part]:
        """Go through some parts, in their order; one is in memory at a time.

        Raises:
            TokenError: there are more or fewer samples than when they were listed.
        """
        places = self.places()
        for name, size in zip(self.part_names(), self.sizes, strict=True):
            part = list(islice(places, size))
            if len(part) != size:
                raise changed_error(self.changed() or "The source")
            if name in wanted:
                yield Part(name, part)
        if next(places, None) is not None:
            raise changed_error(self.changed() or "The source")

    def require_unchanged(self) -> None:
        """Compare the files with what they were when they were listed.

        Raises:
            TokenError: a file has come, gone or changed.
        """
        what = self.changed()
        if what:
            raise changed_error(what)


def changed_error(what: str) -> TokenError:
    """How a source is refused that is another one by now."""
    return TokenError(
        f"{what} has changed since the command began: the files of tokens may have samples twice, "
        "or lack some. Leave the source alone meanwhile, and begin again with another output."
    )


def from_shards(
    shards: Sequence[Path | str], samples_per_file: int, store: StoreSettings | None = None
) -> Source:
    """Take the samples of shards; no part holds samples of two.

    Args:
        shards: paths, and addresses of remote ones.
        samples_per_file: samples a part, at most.
        store: where remote ones are kept; may be None if there are none.

    Raises:
        ShardError: a shard cannot be read or holds no image; or a remote one not be counted.
    """
    is_remote = any(isinstance(shard, str) for shard in shards)
    opened = open_to_stream(shards, open_store(store) if store and is_remote else None)
    here = [shard.path for shard in opened if isinstance(shard, ShardIndex)]
    sizes = [size for shard in opened for size in _sizes(shard.num_samples, samples_per_file)]
    return Source(
        shards_fingerprint(opened),
        sizes,
        partial(_shard_places, opened, store),
        partial(_changed_files, here, _stamps(here)),
        _damage(opened),
    )


def from_folder(folder: Path, samples_per_file: int) -> Source:
    """Take the image files of a folder of any depth, with captions from text files beside them.

    Raises:
        PreparationError: it is missing, or there is no image in it.
    """
    found = look_through([folder])
    sizes = _sizes(found.images, samples_per_file)
    return Source(
        found.fingerprint,
        sizes,
        partial(_folder_places, folder),
        partial(_changed_folder, folder, found.fingerprint),
        NO_DAMAGE,
    )


def from_tables(
    tables: Sequence[Path], path_column: str, caption_column: str | None, samples_per_file: int
) -> Source:
    """Take the image files that parquet tables name, relative to the table's own folder.

    Args:
        tables: parquet files.
        path_column: names the image.
        caption_column: holds the caption. None: text files beside the images.
        samples_per_file: samples a part, at most.

    Raises:
        TokenError: a table cannot be read or lacks a column, or there is no row in any.
        PreparationError: pyarrow is not installed.
    """
    require_pyarrow()
    columns = [path_column, *([caption_column] if caption_column is not None else [])]
    rows = sum(count_rows(table, columns) for table in tables)
    if not rows:
        raise TokenError(f"{tables[0]} has no row. Give tables of paths of images.")
    stamps = _stamps(tables)
    return Source(
        fingerprint([*stamps, columns]),
        _sizes(rows, samples_per_file),
        partial(table_places, tables, columns),
        partial(_changed_files, tables, stamps),
        NO_DAMAGE,
    )


def _sizes(count: int, most: int) -> list[int]:
    return [min(most, count - first) for first in range(0, count, most)]


def _damage(shards: Sequence[ShardIndex | RemoteShard]) -> Damage:
    here = [shard for shard in shards if isinstance(shard, ShardIndex) and shard.problem]
    said = {shard.path: f"{shard.path.name}: {shard.problem}" for shard in here}
    return Damage(
        shards=len(shards),
        dead=[said[shard.path] for shard in here if not shard.num_samples],
        partly=[said[shard.path] for shard in here if shard.num_samples],
    )


Stamp = tuple[str, int, int] | None
"""Of a file; None if it is not there."""


def _stamps(files: Sequence[Path]) -> list[Stamp]:
    return [stamp(file) if file.exists() else None for file in files]


def _changed_files(files: Sequence[Path], before: Sequence[Stamp]) -> str:
    both = zip(files, before, _stamps(files), strict=True)
    return next((str(file) for file, then, now in both if then != now), "")


def _changed_folder(folder: Path, before: str) -> str:
    try:
        return "" if look_through([folder]).fingerprint == before else str(folder)
    except PreparationError:  # nothing is left of it
        return str(folder)


def _shard_places(
    shards: Sequence[ShardIndex | RemoteShard], store: StoreSettings | None
) -> Iterator[Place]:
    for shard in shards:
        if isinstance(shard, ShardIndex):
            for start, end in zip(shard.starts, shard.ends, strict=True):
                yield ShardPlace(shard.path, int(start), int(end))
        else:
            assert store is not None, "remote shards need a store"
            for number in range(shard.num_samples):
                yield RemotePlace(shard.address, shard.num_samples, number, store)


def _folder_places(folder: Path) -> Iterator[Place]:
    for file in image_files([folder], None):
        yield FilePlace(file.number, folder / file.name, printable(file.name), None)
