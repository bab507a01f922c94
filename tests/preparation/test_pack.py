"""`pack`: the same folders always give the same shards, also after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from factories import image_bytes, read_with_webdataset
from PIL import Image

from vqgan_train.config.preparation import PackConfig
from vqgan_train.images.folders import scan_folders
from vqgan_train.images.sample import image_bytes as image_in
from vqgan_train.preparation.pack import pack
from vqgan_train.shards.index import index_shards
from vqgan_train.system.errors import UserError


def config(folder: Path, **changes: Any) -> PackConfig:
    settings: dict[str, Any] = {
        "inputs": folder / "in",
        "output": str(folder / "out"),
        "samples_per_shard": 4,
        "captions": None,
        "captions_path_column": "file_name",
        "captions_text_column": "text",
        "num_workers": 0,
    }
    return PackConfig(**{**settings, **changes})


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def encoded(file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((30, 20), 50).convert("RGB").save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture
def many_kinds(tmp_path: Path) -> dict[str, bytes]:
    """Good images by name: formats, depths, dots, blanks, upper case, wrong names."""
    images = {
        "a.v1.jpg": encoded("JPEG"),
        "b/C.JPG": encoded("JPEG", quality=50),
        "b/c.png": encoded("PNG"),
        "b/d/deep one.webp": encoded("WEBP"),
        "b/e.gif": encoded("GIF"),
        "b/f.bmp": encoded("BMP"),
        "b/g.tiff": encoded("TIFF"),
        "b/h.jpeg": encoded("PNG"),  # a PNG that is called JPEG
        "c/übung.jpg": encoded("JPEG", quality=20),
    }
    for name, content in images.items():
        write(tmp_path / "in" / name, content)
    return images


def read(output: Path) -> list[dict[str, Any]]:
    return [s for shard in sorted(output.glob("*.tar")) for s in read_with_webdataset(shard)]


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def test_files_are_copied_and_fields_follow_from_the_content(
    tmp_path: Path, many_kinds: dict[str, bytes]
) -> None:
    pack(config(tmp_path))
    samples = read(tmp_path / "out")
    found = {json.loads(s["json"])["file"]: s for s in samples}
    assert {name: image_in(sample) for name, sample in found.items()} == many_kinds
    assert list(found) == sorted(many_kinds, key=lambda name: (name.split("/")[:-1], name))
    assert [s["__key__"] for s in samples] == [f"{number:09d}" for number in range(9)]
    assert "png" in found["b/h.jpeg"]
    assert "tif" in found["b/g.tiff"]
    assert json.loads(found["b/c.png"]["json"]) == {"file": "b/c.png", "width": 30, "height": 20}
    assert sum(len(i.starts) for i in index_shards(sorted((tmp_path / "out").glob("*.tar")))) == 9
    assert [len(read_with_webdataset(p)) for p in sorted((tmp_path / "out").glob("*.tar"))] == [
        4, 4, 1,
    ]  # fmt: skip


def test_unreadable_images_are_left_out_counted_and_named(
    tmp_path: Path, many_kinds: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "a/cut.jpg": encoded("JPEG")[:-60],
        "a/page.jpg": b"<html>",
        "a/empty.png": b"",
        "a/line.png": image_bytes(1, 600),
    }
    for name, content in bad.items():
        write(tmp_path / "in" / name, content)
    (tmp_path / "in" / "a" / "dangling.jpg").symlink_to("nowhere")
    write(tmp_path / "in" / "a" / "notes.doc", "x")
    pack(config(tmp_path))
    said = capsys.readouterr().out
    assert "packed            9 of 14 images, 0 captions" in said
    assert "left out          5: 2 x no image format that PIL knows" in said
    assert "other files       1 x .doc" in said
    named = (tmp_path / "out" / "left_out.tsv").read_text().splitlines()
    assert {line.split("\t")[1] for line in named} == {
        str(tmp_path / "in" / name) for name in [*bad, "a/dangling.jpg"]
    }
    assert "600 x 1 pixels is too long to crop a square from\t" in "\n".join(named)
    assert len(read(tmp_path / "out")) == len(many_kinds)


def test_links_are_followed_once_and_hidden_files_left_out(tmp_path: Path) -> None:
    image = encoded("JPEG")
    for name in (
        "in/a/1.jpg",
        "far/2.jpg",
        "in/._1.jpg",
        "in/.thumbs/3.jpg",
        "in/__MACOSX/a/1.jpg",
    ):
        write(tmp_path / name, image)
    (tmp_path / "in" / "to_far").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "to_far_too").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "to_a").symlink_to("a")
    (tmp_path / "far" / "circle").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "in")
    pack(config(tmp_path))
    files = [json.loads(sample["json"])["file"] for sample in read(tmp_path / "out")]
    assert files == ["a/1.jpg", "to_far/2.jpg"]
    assert scan_folders([tmp_path / "in"]).images == 2


def test_photos_that_lie_on_their_side_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "in" / "1.jpg", encoded("JPEG", exif=exif))
    write(tmp_path / "in" / "2.jpg", encoded("JPEG"))
    pack(config(tmp_path))
    said = capsys.readouterr().out
    assert "on their side     1 images, turned by their EXIF only if read with exif_rotate" in said


def test_a_shard_without_readable_images_has_only_a_report(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "in" / f"{number}.jpg", b"no")
    write(tmp_path / "in" / "5.jpg", encoded("JPEG"))
    pack(config(tmp_path))
    assert {p.name for p in (tmp_path / "out").glob("0*")} == {
        "00000.json", "00001.json", "00001.tar",
    }  # fmt: skip


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.jpg", b"no")
    with pytest.raises(UserError, match=r"None of the 1 images .* 1 x no image format"):
        pack(config(tmp_path))


def test_captions_come_from_texts_beside_the_images(
    tmp_path: Path, many_kinds: dict[str, bytes]
) -> None:
    write(tmp_path / "in" / "a.v1.txt", " one line \n")
    write(tmp_path / "in" / "b" / "c.txt", b"caf\xe9")  # not UTF-8
    pack(config(tmp_path))
    texts = {json.loads(s["json"])["file"]: s.get("txt") for s in read(tmp_path / "out")}
    assert texts["a.v1.jpg"] == b"one line"
    assert texts["b/c.png"] == "caf\ufffd".encode()
    assert texts["b/e.gif"] is None


@pytest.mark.parametrize(
    ("table", "rows", "caption"),
    [
        ("c.csv", ["text,file_name", '"with, comma\t""and"" tab",./b/c.png', "lost,z.png"], None),
        ("c.tsv", ["text\tfile_name", '5" nail, "so\t./b/c.png', "lost\tz.png"], '5" nail, "so'),
        (
            "metadata.jsonl",  # as Hugging Face's image folders have
            ['{"file_name": "b/c.png", "text": "one"}', '{"text": null, "file_name": "z.png"}'],
            "one",
        ),
    ],
)
def test_captions_come_from_a_table(
    tmp_path: Path,
    many_kinds: dict[str, bytes],
    table: str,
    rows: list[str],
    caption: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / table, "\ufeff" + "\n".join(rows))
    write(tmp_path / "in" / "b" / "e.txt", "not this")
    pack(config(tmp_path, captions=str(file)))
    texts = {json.loads(s["json"])["file"]: s.get("txt") for s in read(tmp_path / "out")}
    assert {name: text for name, text in texts.items() if text} == {
        "b/c.png": (caption or 'with, comma\t"and" tab').encode()
    }
    said = capsys.readouterr().out
    assert "no image for      1 captions, for example z.png" in said
    assert "not in the table  8 images, for example a.v1.jpg" in said


def test_two_runs_and_any_number_of_workers_write_the_same_bytes(
    tmp_path: Path, many_kinds: dict[str, bytes]
) -> None:
    pack(config(tmp_path))
    pack(config(tmp_path, output=str(tmp_path / "again"), num_workers=1))
    first, again = contents(tmp_path / "out"), contents(tmp_path / "again")
    del first["report.txt"], again["report.txt"]  # it names the folder
    assert first == again


def test_a_second_run_reads_no_image_and_reports_the_same(
    tmp_path: Path,
    many_kinds: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "in" / "bad.jpg", b"")
    pack(config(tmp_path))
    said = capsys.readouterr().out
    monkeypatch.setattr("vqgan_train.preparation.packing._readable_samples", None)
    pack(config(tmp_path))
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_per_shard": 5}, "samples_per_shard was 4, is 5"),
        ({"inputs": "in/b"}, "images was 9, is 7"),
    ],
)
def test_other_settings_or_files_are_refused_in_the_same_folder(
    tmp_path: Path,
    many_kinds: dict[str, bytes],
    change: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pack(config(tmp_path))
    with pytest.raises(UserError, match=message):
        pack(config(tmp_path, **change))


def test_an_image_that_changed_is_noticed(tmp_path: Path, many_kinds: dict[str, bytes]) -> None:
    pack(config(tmp_path))
    os.utime(tmp_path / "in" / "b" / "c.png", ns=(0, 0))
    with pytest.raises(UserError, match="images_fingerprint was"):
        pack(config(tmp_path))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["nowhere"], "There is no folder nowhere. Relative paths start at"),
        (["in", "in/b"], "in/b is in in: its images would be packed twice"),
        (["in", "in"], "in is in in"),
        (["empty"], r"There is no image file in empty \(found: \.md 1\)\. Give folders"),
    ],
)
def test_missing_empty_and_nested_inputs_are_refused(
    tmp_path: Path,
    many_kinds: dict[str, bytes],
    inputs: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "empty" / "a.md", "x")
    with pytest.raises(UserError, match=f"^{message}"):
        pack(config(tmp_path, inputs=inputs))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,caption\n", "has the columns file_name, caption, and no text"),
        ("file_name,text\na.jpg,1\n./a.jpg,2\n", "names a.jpg twice"),
        (b"file_name,text\n\xff,1\n", "cannot be read: 'utf-8' codec"),
        ('file_name,text\na.jpg,"open\nb.jpg,2\n', "line 3: unexpected end of data .is a quote"),
        (
            'file_name,text\na.jpg,"open\nb.jpg,"2"\n',
            r"line 3: ',' expected after '\"' .is a quote",
        ),
        ("file_name,text\na.jpg,one, two\n", "line 2 has 3 columns, but the header 2"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_unusable_caption_tables_are_refused(
    tmp_path: Path, many_kinds: dict[str, bytes], table: str | bytes | None, message: str
) -> None:
    file = tmp_path / "table.csv"
    if table is not None:
        write(file, table)
    with pytest.raises(UserError, match=message):
        pack(config(tmp_path, captions=str(file)))


def test_a_folder_with_other_files_is_refused(tmp_path: Path, many_kinds: dict[str, bytes]) -> None:
    write(tmp_path / "out" / "thesis.txt", "x")
    with pytest.raises(UserError, match="this command did not begin it"):
        pack(config(tmp_path))
    with pytest.raises(UserError, match=r"table\.csv is a file"):
        pack(config(tmp_path, output=str(write(tmp_path / "table.csv", ""))))


@pytest.mark.slow
def test_a_killed_pack_resumes_and_writes_the_same_bytes(tmp_path: Path) -> None:
    for number in range(48):
        write(tmp_path / "in" / f"{number}.png", image_bytes(700, 700, seed=number))
    reference = tmp_path / "reference"
    pack(config(tmp_path, output=str(reference)))
    expected = contents(reference)
    command = [
        sys.executable, "-m", "vqgan_train.pack", "inputs=in", "output=out",
        "samples_per_shard=4", "num_workers=1",
    ]  # fmt: skip
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        before = len(list((tmp_path / "out").glob("0*.tar")))
        while len(list((tmp_path / "out").glob("0*.tar"))) <= before:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for shard in (tmp_path / "out").glob("*.tar"):  # what has its name is whole
            assert shard.read_bytes() == expected[shard.name]
    assert len(list((tmp_path / "out").glob("*.tar"))) < 12
    subprocess.run(command, cwd=tmp_path, stderr=subprocess.DEVNULL, check=True)
    found = contents(tmp_path / "out")
    for name in ("report.txt", "job.json"):
        del found[name], expected[name]
    assert found == expected
