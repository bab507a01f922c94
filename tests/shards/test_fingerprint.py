import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import image_samples, write_shard

from vqgan_train.shards.index import ShardIndex, index_shard, index_shards
from vqgan_train.shards.remote.opening import fingerprint

FIRST_VERSION = "801c77df480eebc991c6bc63464feffc0933221b746f88f6e352575cf7256192"


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardIndex]:
    """Shards of 3, 1 and 4 samples."""
    return [
        index_shard(write_shard(tmp_path / f"{n}.tar", image_samples(count, first=10 * n)))
        for n, count in enumerate((3, 1, 4))
    ]


def moved(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return path.rename(folder / path.name)


def test_it_is_a_short_text_that_never_changes() -> None:
    """Checkpoints store the fingerprint, so later versions must compute the same one."""
    shard = ShardIndex(
        Path("a/00000.tar"), 4096, np.array([0, 1536]), np.array([1536, 3072]), 0, 0, ""
    )
    assert fingerprint([shard]) == FIRST_VERSION
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint([]))


def test_shards_in_another_folder_are_the_same_data(
    shards: list[ShardIndex], tmp_path: Path
) -> None:
    elsewhere = [moved(shard.path, tmp_path / "elsewhere") for shard in shards]
    assert fingerprint([index_shard(path) for path in elsewhere]) == fingerprint(shards)


def test_an_index_from_the_cache_is_the_same_data(shards: list[ShardIndex]) -> None:
    paths = [shard.path for shard in shards]
    assert {fingerprint(index_shards(paths)) for _ in range(2)} == {fingerprint(shards)}


def test_other_data_is_told(shards: list[ShardIndex]) -> None:
    a, b, c = shards
    others = {
        "none": [],
        "order": [b, a, c],
        "missing": [a, b],
        "twice": [a, b, c, c],
        "name": [a, b, replace(c, path=c.path.with_name("3.tar"))],
        "longer file": [a, b, replace(c, num_bytes=c.num_bytes + 512)],
        "fewer samples": [a, b, replace(c, starts=c.starts[1:], ends=c.ends[1:])],
        "another start": [a, b, replace(c, starts=c.starts + np.array([0, 0, 512, 0]))],
        "another end": [a, b, replace(c, ends=c.ends - np.array([0, 0, 512, 0]))],
    }
    found = {fingerprint(shards)} | {fingerprint(other) for other in others.values()}
    assert len(found) == 1 + len(others)


def test_a_longer_shard_is_other_data(shards: list[ShardIndex]) -> None:
    before = fingerprint(shards)
    last = shards[2].path
    write_shard(last, image_samples(5, first=20))
    assert fingerprint([*shards[:2], index_shard(last)]) != before


def test_samples_do_not_move_between_shards_unseen() -> None:
    def shard(*starts: int) -> ShardIndex:
        return ShardIndex(Path("a"), 0, np.array(starts, np.int64), np.array(starts) + 1, 0, 0, "")

    assert fingerprint([shard(0, 1), shard(2)]) != fingerprint([shard(0), shard(1, 2)])
