"""`prepare_yfcc` on records of YFCC100M's OpenAI subset: parquet, or jsonl with zips."""

import gzip
import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from factories import image_bytes, read_with_webdataset
from pyarrow import parquet

from vqgan_train.config.preparation import PrepareYfccConfig
from vqgan_train.preparation.prepare_yfcc import prepare_yfcc
from vqgan_train.preparation.yfcc_records import caption_of, pair_with_images
from vqgan_train.system.errors import UserError


def config(folder: Path, **changes: Any) -> PrepareYfccConfig:
    settings: dict[str, Any] = {
        "records": str(folder / "records" / "*"),
        "images": None,
        "output": str(folder / "out"),
        "samples_per_shard": 4,
        "num_workers": 0,
    }
    return PrepareYfccConfig(**{**settings, **changes})


def record(number: int, **changes: Any) -> dict[str, Any]:
    """The fields of a published record, without its image."""
    return {
        "title": f"Title+{number}",
        "description": None,
        "photoid": 1_000 + number,
        "uid": "48600087396@N01",
        "unickname": "doctor+paradox",
        "usertags": "a,b",
        "licensename": "Attribution License",
        "licenseurl": "http://creativecommons.org/licenses/by/2.0/",
        "downloadurl": f"http://farm3.staticflickr.com/{number}.jpg",
        "ext": "jpg",
        "marker": 0,
        "key": f"3d1{number:029x}",
        "title_clean": f"Title {number}",
        "description_clean": "What it shows.",
        **changes,
    }


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path


def write_jsonl_and_zip(
    folder: Path, stem: str, rows: list[dict[str, Any]], images: dict[str, bytes]
) -> Path:
    """Files as published: metadata/metadata_XXX.jsonl.gz and data/XXX.zip."""
    path = folder / "records" / f"metadata_{stem}.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    with zipfile.ZipFile(folder / "data" / f"{stem}.zip", "w") as archive:
        for key, content in images.items():
            archive.writestr(f"images/{key[:3]}/{key}.jpg", content)
    return path


def read(output: Path) -> dict[str, dict[str, Any]]:
    shards = sorted(output.glob("*.tar"))
    return {s["__key__"]: s for shard in shards for s in read_with_webdataset(shard)}


@pytest.mark.parametrize(
    ("title", "description", "caption"),
    [
        ("Cat", "On a mat", "Cat. On a mat"),
        ("Cat.", "On a mat", "Cat. On a mat"),
        (" Cat ", " On a mat ", "Cat. On a mat"),
        ("Cat", "", "Cat."),
        ("", "On a mat", "On a mat"),
        (None, None, ""),
    ],
)
def test_a_caption_is_title_and_description(
    title: str | None, description: str | None, caption: str
) -> None:
    assert caption_of({"title_clean": title, "description_clean": description}) == caption


@pytest.mark.parametrize("wrapped", [False, True])
def test_parquet_becomes_shards(
    tmp_path: Path, wrapped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [image_bytes(seed=number, file_format="JPEG") for number in range(9)]
    images[4] = b"<html>"
    rows = [
        record(n, img={"bytes": image, "path": None} if wrapped else image)
        for n, image in enumerate(images)
    ]
    write_parquet(tmp_path / "records" / "0000.parquet", rows)
    write_parquet(tmp_path / "records" / "0001.parquet", [record(9, img=b"")])
    prepare_yfcc(config(tmp_path))
    samples = read(tmp_path / "out")
    good = [number for number in range(9) if number != 4]
    assert list(samples) == [rows[number]["key"] for number in good]
    assert [samples[rows[number]["key"]]["jpg"] for number in good] == [images[n] for n in good]
    first = samples[rows[0]["key"]]
    assert first["txt"] == b"Title 0. What it shows."
    assert json.loads(first["json"]) == {
        "photoid": 1_000,
        "uid": "48600087396@N01",
        "unickname": "doctor+paradox",
        "licensename": "Attribution License",
        "licenseurl": "http://creativecommons.org/licenses/by/2.0/",
        "downloadurl": "http://farm3.staticflickr.com/0.jpg",
        "width": 24,
        "height": 20,
    }
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        "0000-00000.tar", "0000-00001.tar", "0000-00002.tar",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "packed            8 of 10 images, 8 captions" in said
    named = (tmp_path / "out" / "left_out.tsv").read_text()
    assert f"no image format that PIL knows\t0000.parquet/{rows[4]['key']}\n" in named
    assert "the record has no image\t0001.parquet/" in named.replace("'", "")


def test_jsonl_finds_its_images_in_zips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [record(n) for n in range(5)]
    images = {row["key"]: image_bytes(seed=n, file_format="JPEG") for n, row in enumerate(rows)}
    lost = images.pop(rows[2]["key"])
    write_jsonl_and_zip(tmp_path, "3d1", rows, images)
    other = [record(n, key=f"001{n:029x}") for n in range(3)]
    write_jsonl_and_zip(tmp_path, "001", other, {row["key"]: lost for row in other})
    prepare_yfcc(config(tmp_path, images=str(tmp_path / "data"), num_workers=1))
    samples = read(tmp_path / "out")
    assert {key: sample["jpg"] for key, sample in samples.items()} == images | {
        row["key"]: lost for row in other
    }
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        "metadata_001-00000.tar", "metadata_3d1-00000.tar", "metadata_3d1-00001.tar",
    ]  # fmt: skip
    assert "left out          1: 1 x " in capsys.readouterr().out


def test_a_second_run_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [record(n, img=image_bytes(seed=n, file_format="JPEG")) for n in range(9)]
    write_parquet(tmp_path / "records" / "0000.parquet", rows)
    prepare_yfcc(config(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    (tmp_path / "out" / "0000-00001.json").unlink()  # as if killed before it was written
    prepare_yfcc(config(tmp_path))
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path.name for path in before if before[path] != after[path]] == ["0000-00001.tar"]
    monkeypatch.setattr("vqgan_train.preparation.packing._readable_samples", None)
    prepare_yfcc(config(tmp_path))


def test_files_can_be_added_and_changed_later(tmp_path: Path) -> None:
    first, second = tmp_path / "records" / "0.parquet", tmp_path / "records" / "1.parquet"
    images = [image_bytes(seed=n, file_format="JPEG") for n in range(3)]
    write_parquet(first, [record(0, img=images[0])])
    prepare_yfcc(config(tmp_path))
    write_parquet(first, [record(0, img=images[1])])
    write_parquet(second, [record(1, img=images[2])])
    prepare_yfcc(config(tmp_path))
    assert [sample["jpg"] for sample in read(tmp_path / "out").values()] == images[1:]


def test_a_damaged_zip_entry_costs_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [record(n) for n in range(3)]
    images = {row["key"]: image_bytes(seed=n) for n, row in enumerate(rows)}
    write_jsonl_and_zip(tmp_path, "3d1", rows, images)
    archive = tmp_path / "data" / "3d1.zip"
    content = archive.read_bytes()
    place = content.index(images[rows[1]["key"]][:100]) + 200
    archive.write_bytes(content[:place] + b"XXXX" + content[place + 4 :])
    prepare_yfcc(config(tmp_path, images=str(tmp_path / "data")))
    assert list(read(tmp_path / "out")) == [rows[0]["key"], rows[2]["key"]]
    assert "1 x damaged in " in capsys.readouterr().out


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with three records and their zip file."""
    rows = [record(n) for n in range(3)]
    write_jsonl_and_zip(tmp_path, "3d1", rows, {row["key"]: image_bytes() for row in rows})
    return tmp_path


def test_files_that_are_damaged_or_missing_are_named(published: Path) -> None:
    with pytest.raises(UserError, match=r"contains no images: .*\.prepare_yfcc_links"):
        prepare_yfcc(config(published))
    with pytest.raises(UserError, match=r"should be in .*/nowhere/3d1\.zip, which does not"):
        prepare_yfcc(config(published, images=str(published / "nowhere")))
    whole = config(published, images=str(published / "data"))
    archive = published / "data" / "3d1.zip"
    content = archive.read_bytes()
    archive.write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"3d1\.zip is not a complete zip file"):
        prepare_yfcc(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b'{"key": "a", "title_clean": "b"}\n', mtime=0),
            "fields key, title_clean, but no description_clean: it is not",
        ),
        (gzip.compress(b"a\tb\n", mtime=0), "is damaged after line 0"),
        (
            gzip.compress(json.dumps(record(0)).encode() + b"\n", mtime=0)[:-9],
            "is damaged after line",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "Not a gzipped file"),
    ],
)
def test_jsonl_that_is_damaged_or_has_other_fields_is_refused(
    published: Path, content: bytes, message: str
) -> None:
    (published / "records" / "metadata_3d1.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare_yfcc(config(published, images=str(published / "data")))


def test_parquet_that_is_damaged_or_has_other_fields_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "records" / "0.parquet", [{"url": "x", "caption": "y"}])
    with pytest.raises(
        UserError,
        match="has the fields url, caption, but no key, title_clean, description_clean, img:",
    ):
        prepare_yfcc(config(tmp_path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"0\.parquet is damaged"):
        prepare_yfcc(config(tmp_path))


def test_unknown_suffixes_and_equal_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv is not a file of records"):
        pair_with_images([Path("a.csv")], None)
    with pytest.raises(UserError, match="Several files are named a,"):
        pair_with_images([Path("x/a.parquet"), Path("y/a.parquet")], None)


def test_parquet_without_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'vqgan_train\[parquet\]'"):
        pair_with_images([Path("a.parquet")], None)
