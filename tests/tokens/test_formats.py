from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from factories import read_with_webdataset
from pyarrow import parquet

from vqgan_train.system.errors import UserError
from vqgan_train.tokens.formats import FORMATS, Labels, TokenRow, open_any
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


def rows() -> list[TokenRow]:
    return [
        TokenRow(Labels(f"k/{n}", caption, "s.tar"), np.arange(n, n + 6, dtype=np.int32))
        for n, caption in enumerate(CAPTIONS)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    token_format = FORMATS[name]
    path = tmp_path / f"001{token_format.ending}"
    token_format.write(path, rows(), METADATA)
    metadata, read = open_any(path)
    assert metadata == METADATA
    for row, again in zip(rows(), read(), strict=True):
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


@pytest.mark.parametrize("name", FORMATS)
def test_neighbours_of_one_key_stay_apart(tmp_path: Path, name: str) -> None:
    same = [rows()[0], rows()[0], rows()[1], rows()[1], rows()[1], rows()[0]]
    path = tmp_path / f"001{FORMATS[name].ending}"
    FORMATS[name].write(path, same, METADATA)
    again = list(open_any(path)[1]())
    assert [row.labels for row in again] == [row.labels for row in same]
    if name == "webdataset":
        keys = [sample["__key__"] for sample in read_with_webdataset(path)]
        assert keys == ["k/0", "k/0_", "k/1", "k/1_", "k/1", "k/0"]


def test_an_array_without_its_table_or_with_anothers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "001.npy"
    FORMATS["npy"].write(path, rows(), METADATA)
    np.save(path, np.zeros((2, 6), np.int32))
    with pytest.raises(UserError, match=r"its \.json have 4, 4, 4 rows, not 2"):
        list(open_any(path)[1]())
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"needs .*001\.json beside it"):
        open_any(path)


def damage(path: Path) -> None:
    """Write over the file's middle, where its rows are."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[: half - 200] + b"\xff" * 400 + content[half + 200 :])


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_an_error_of_ours_or_seen_in_the_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"001{FORMATS[name].ending}"
    FORMATS[name].write(path, rows() * 20, METADATA)
    damage(path)
    try:
        found = [int(row.tokens.min()) for row in open_any(path)[1]()]
    except UserError:
        return
    assert min(found) < 0  # which is no code, so decode refuses it


def test_cut_off_anywhere_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    for name, token_format in FORMATS.items():
        path = tmp_path / f"001{token_format.ending}"
        token_format.write(path, rows(), METADATA)
        content = path.read_bytes()
        whole = len(content.rstrip(b"\0")) if name == "webdataset" else len(content)
        for end in range(0, whole, 97):
            path.write_bytes(content[:end])
            with pytest.raises(UserError):
                list(open_any(path)[1]())


def test_what_others_wrote_is_read_without_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "001.parquet"
    parquet.write_table(pa.table({"caption": ["a"], "encoding": [[1, 2, 3, 4]]}), path)
    metadata, read = open_any(path)
    assert metadata is None
    (row,) = read()
    assert row.labels == Labels("", "a", "")
    assert row.tokens.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "columns",
    [
        {"caption": ["a"]},
        {"encoding": [None]},
        {"encoding": [[1, None]]},
        {"encoding": ["text"]},
        {"encoding": [[[1], [2]]]},
        {"encoding": [[2**40]]},
        {"encoding": [3]},
    ],
)
def test_columns_that_are_no_tokens_are_an_error_of_ours(
    tmp_path: Path, columns: dict[str, list[Any]]
) -> None:
    path = tmp_path / "001.parquet"
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=r"001\.parquet is damaged, or holds no tokens"):
        list(open_any(path)[1]())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [4, 2]}, r"grid is \[4, 2\] for an image_size of \[48, 32\]"),
        ({"grid": "3x2"}, "grid is 3x2"),
        ({"grid": [3, 0]}, r"grid is \[3, 0\]"),
        ({"pixel_range": "other"}, "pixel_range is other"),
        ({"codebook_size": None}, "codebook_size is None"),
        ({"more": 1}, "than this version .*different: more"),
    ],
)
def test_metadata_that_no_tokens_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenMetadata.from_plain({**asdict(METADATA), **change}, Path("001.parquet"))
