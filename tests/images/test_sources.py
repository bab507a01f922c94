import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from factories import image_bytes, write_shard
from pyarrow import parquet
from tiny_tokens import tiny_shards

from vqgan_train.images.locations import FileLocation, ImageLocation
from vqgan_train.images.sources import (
    NO_DAMAGE,
    Chunk,
    ImageSource,
    from_folder,
    from_shards,
    from_tables,
)
from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.index import index_shards
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import DeadShardError, ShardError, UserError
from vqgan_train.tokens.batches import load_batches
from vqgan_train.training.data.orders import SampleRef
from vqgan_train.training.data.pipeline import ShardDataset


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_no_chunk_holds_samples_of_two_shards(tmp_path: Path) -> None:
    source = from_shards(tiny_shards(tmp_path), samples_per_chunk=4)
    assert source.sizes == [4, 1, 4, 4, 1, 3]
    names = source.chunk_names()
    assert names == ["001", "002", "003", "004", "005", "006"]
    chunks = list(source.chunks(set(names)))
    assert [len(chunk.locations) for chunk in chunks] == source.sizes
    keys = [location.read().key for chunk in chunks for location in chunk.locations]
    assert keys == [f"{number:06d}" for number in range(17)]
    wanted = list(source.chunks({"003", "006"}))
    assert wanted == [chunks[2], chunks[5]]


def test_the_field_of_the_image_and_captions_in_json(tmp_path: Path) -> None:
    """For encode and evaluate, and for training."""
    mask, photo = image_bytes(8, 8, seed=1), image_bytes(8, 8, seed=2)
    sample = {"__key__": "a", "gif": mask, "jpg": photo, "json": b'{"caption": " a boat "}'}
    shards = [write_shard(tmp_path / "a.tar", [sample, {**sample, "__key__": "b", "txt": "t"}])]
    (first, second) = from_shards(shards, 2, image_field="jpg").locations()
    assert [(read.image, read.caption) for read in (first.read(), second.read())] == [
        (photo, "a boat"), (photo, "t"),
    ]  # fmt: skip
    assert next(from_shards(shards, 2).locations()).read().image == mask
    indices = index_shards(shards)
    transform = ImageTransform(8, 8)
    for field, expected in ((None, mask), ("jpg", photo)):
        image = ShardDataset(indices, transform, 0, field)[SampleRef(0, 0)].image
        assert image is not None
        assert torch.equal(image, transform.pixels(expected))
    assert "no field png" in ShardDataset(indices, transform, 0, "png")[SampleRef(0, 0)].name


def photos(folder: Path, count: int) -> Path:
    """A folder of images."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(image_bytes(seed=number))
    return folder


def everything(source: ImageSource) -> list[Chunk]:
    return list(source.chunks(set(source.chunk_names())))


@pytest.mark.parametrize("change", ["comes", "goes"])
def test_a_file_that_comes_or_goes_between_listing_and_reading_is_noticed(
    tmp_path: Path, change: str
) -> None:
    folder = photos(tmp_path / "photos", 4)
    source = from_folder(folder, samples_per_chunk=2)
    assert [len(chunk.locations) for chunk in everything(source)] == [2, 2]
    if change == "comes":
        (folder / "00.png").write_bytes(image_bytes())
    else:
        (folder / "2.png").unlink()
    with pytest.raises(UserError, match=r"photos has changed since the command began"):
        everything(source)


def test_a_file_that_is_another_one_by_the_end_is_noticed(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    shards = tiny_shards(tmp_path / "shards")
    table = tmp_path / "table.parquet"
    parquet.write_table(pa.table({"path": ["photos/0.png"]}), table)
    sources = [
        (from_folder(folder, 2), folder / "1.png", "photos has changed"),
        (from_shards(shards, 2), shards[1], "00001.tar has changed"),
        (from_tables([table], "path", None, 2), table, "table.parquet has changed"),
    ]
    for source, file, message in sources:
        source.require_unchanged()
        content = file.read_bytes()
        file.write_bytes(content[::-1])
        os.utime(file, (1, 1))
        with pytest.raises(UserError, match=message):
            source.require_unchanged()


def test_a_table_that_is_damaged_meanwhile_is_an_error_of_ours(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    parquet.write_table(pa.table({"path": ["photos/0.png"]}), table)
    source = from_tables([table], "path", None, 2)
    table.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"table\.parquet cannot be read any more"):
        everything(source)


def test_remote_shards_are_fetched_and_have_the_same_samples(tmp_path: Path) -> None:
    shards = tiny_shards(tmp_path / "shards")
    store = ShardStore(tmp_path / "store", 10**9, stall_seconds=30, attempts=1)
    mixed = from_shards([f"file://{shards[0]}", shards[1], f"file://{shards[2]}"], 4, store)
    assert mixed.sizes == from_shards(shards, 4).sizes
    read = [location.read() for chunk in everything(mixed) for location in chunk.locations]
    assert read == [location.read() for location in from_shards(shards, 4).locations()]


def test_a_remote_shard_that_holds_what_nobody_promised_or_is_gone_is_an_error(
    tmp_path: Path,
) -> None:
    shards = tiny_shards(tmp_path / "shards")
    store = ShardStore(tmp_path / "store", 10**9, stall_seconds=30, attempts=1)
    addresses = [f"file://{shard}" for shard in shards]
    for shard, count in zip(shards[:2], (4, 10), strict=True):  # it has 5, and 9
        stats = shard.with_name(f"{shard.stem}_stats.json")
        stats.write_text(json.dumps({"successes": count}))
    source = from_shards(addresses, 100, store)
    assert source.sizes == [4, 10, 3]
    (surplus, missing, there) = everything(source)
    with pytest.raises(ShardError, match=r"holds 5 samples, but 4 were .* NNNNN_stats\.json"):
        surplus.locations[0].read()
    with pytest.raises(ShardError, match="holds 9 samples, but 10 were"):
        missing.locations[0].read()
    shards[2].unlink()
    for file in (tmp_path / "store").glob("*/00002.tar"):
        file.unlink()
    with pytest.raises(DeadShardError, match=r"00002\.tar is unavailable"):
        there.locations[0].read()


def test_names_have_as_many_digits_as_the_last_one_needs() -> None:
    source = ImageSource("", [1] * 1000, lambda: iter([]), lambda: "", NO_DAMAGE)
    assert [source.chunk_names()[n] for n in (0, 998, 999)] == ["0001", "0999", "1000"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_chunks_are_drawn_as_they_are_read_and_batches_stay_within_them(
    tmp_path: Path, num_workers: int
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(image_bytes())
    drawn: list[int] = []

    def chunks() -> Iterator[Chunk]:
        for number in range(30):
            drawn.append(number)
            locations: list[ImageLocation] = [FileLocation(n, file, "a.png", "") for n in range(5)]
            yield Chunk(f"{number}", locations)

    loader = load_batches(chunks(), ImageTransform(16, 16), batch_size=2, num_workers=num_workers)
    sizes = []
    for count, batch in enumerate(loader):
        sizes.append((batch.chunk, len(batch.labels), batch.is_last))
        batches_ahead = 2 * num_workers + 1
        assert len(drawn) <= (count + batches_ahead) // 3 + 1
    expected = [(2, False), (2, False), (1, True)]
    assert sizes == [(f"{n}", *own) for n in range(30) for own in expected]
