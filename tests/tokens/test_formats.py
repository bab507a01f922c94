from pathlib import Path

import numpy as np
import pytest
from factories import read_with_webdataset
from pyarrow import parquet

from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.formats import FORMATS, Row, open_tokens
from vqgan_train.tokens.loading import Labels
from vqgan_train.tokens.metadata import TokenMetadata

METADATA = TokenMetadata(
    pixel_range="unit",
    checkpoint="a.ckpt",
    checkpoint_sha256="12",
    weights_sha256="34",
    codebook_size=64,
    downsampling=16,
    image_size=[48, 32],
    grid=[3, 2],
    resize=[64, 32],
    interpolation="lanczos",
    crop="center",
    precision="fp32",
    version="1",
)
CAPTIONS = ("plain", "", 'two\nlines, "quotes"', "Ünïcode 猫 \U0001f600")


def rows() -> list[Row]:
    return [
        Row(Labels(f"k/{n}", caption, "s.tar"), np.arange(n, n + 6, dtype=np.int32))
        for n, caption in enumerate(CAPTIONS)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    token_format = FORMATS[name]
    path = tmp_path / f"001{token_format.ending}"
    token_format.write(path, rows(), METADATA)
    metadata, found = open_tokens(path)
    assert metadata == METADATA
    for row, again in zip(rows(), found, strict=True):
        assert row.labels == again.labels
        assert np.array_equal(row.tokens, again.tokens)
        assert again.tokens.dtype == np.int32


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    files = [tmp_path / number / f"001{FORMATS[name].ending}" for number in "12"]
    for file in files:
        FORMATS[name].write(file, rows(), METADATA)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_webdataset_reads_arrays_beside_captions_and_nothing_else(tmp_path: Path) -> None:
    FORMATS["webdataset"].write(tmp_path / "001.tar", rows(), METADATA)
    samples = read_with_webdataset(tmp_path / "001.tar")
    assert [sample["__key__"] for sample in samples] == [row.labels.key for row in rows()]
    assert [sample["txt"].decode() for sample in samples] == list(CAPTIONS)
    assert all(set(sample) == {"__key__", "npy", "txt", "json"} for sample in samples)


def test_two_neighbours_of_one_key_are_refused_by_webdataset_only(tmp_path: Path) -> None:
    twice = [rows()[0], rows()[0]]
    with pytest.raises(TokenError, match=r"are called k/0, in s.tar and s.tar.*format=parquet"):
        FORMATS["webdataset"].write(tmp_path / "001.tar", twice, METADATA)
    assert not list(tmp_path.iterdir())
    FORMATS["parquet"].write(tmp_path / "001.parquet", twice, METADATA)
    assert parquet.read_table(tmp_path / "001.parquet").num_rows == 2


def test_an_array_without_its_table_or_with_anothers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "001.npy"
    FORMATS["npy"].write(path, rows(), METADATA)
    np.save(path, np.zeros((2, 6), np.int32))
    with pytest.raises(TokenError, match=r"not those of its \.json"):
        list(open_tokens(path)[1])
    path.with_suffix(".json").unlink()
    with pytest.raises(TokenError, match=r"needs .*001\.json beside it"):
        open_tokens(path)
