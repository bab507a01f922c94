"""`select`: surveys, and new shards with exactly the requested samples, also after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import image_bytes, read_with_webdataset, write_shard
from PIL import Image
from tqdm import tqdm

from vqgan_train.config.preparation import PeopleConfig, SelectConfig
from vqgan_train.preparation import survey as people
from vqgan_train.preparation.select import select
from vqgan_train.preparation.survey import (
    BAD,
    GOOD,
    SMALL,
    Survey,
    SurveyRules,
    survey_shard,
    survey_shards,
    word_pattern,
)
from vqgan_train.shards.index import ShardIndex, index_shard, index_shards
from vqgan_train.system.errors import UserError

RULES = SurveyRules(min_side=16, people_words=("man", "men"), detect_faces=False)


def sample(key: str, seed: int, *, side: int = 20, caption: str = "a tree") -> dict[str, Any]:
    image = image_bytes(side, side + 4, seed=seed, file_format="JPEG")
    return {"__key__": key, "jpg": image, "txt": caption.encode(), "json": b'{"a": 1}'}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two sources of 20 and 14 samples with everything in them that is left out."""
    first = [
        sample(f"{n:03d}", n, caption="Men at work" if n % 4 == 0 else "a tree") for n in range(20)
    ]
    second = [sample(f"{n:03d}", 100 + n) for n in range(10)]
    bad = [
        sample("010", 3),  # the first source has it
        sample("011", 111, side=15),
        {**sample("012", 112), "jpg": sample("012", 112)["jpg"][:-100]},
        sample("013", 109),  # number 9 again
    ]
    write_shard(tmp_path / "a0.tar", first[:12])
    write_shard(tmp_path / "a1.tar", first[12:])
    write_shard(tmp_path / "b0.tar", [*second, *bad])
    return tmp_path


def config(folder: Path, **changes: Any) -> SelectConfig:
    settings: dict[str, Any] = {
        "sources": {"a": str(folder / "a*.tar"), "b": [str(folder / "b0.tar")]},
        "weights": {"a": 2.0, "b": 1.0},
        "output": str(folder / "out"),
        "samples": 21,
        "val_samples": 3,
        "val_source": "b",
        "samples_per_shard": 8,
        "min_side": 16,
        "allow_fewer": False,
        "people": PeopleConfig(multiplier=1.0, words=["man", "men"], detect_faces=False),
        "seed": 0,
        "num_workers": 0,
    }
    return SelectConfig(**{**settings, **changes})


def read(folder: Path) -> list[dict[str, Any]]:
    return [s for shard in sorted(folder.glob("*.tar")) for s in read_with_webdataset(shard)]


def contents(output: Path) -> dict[str, bytes]:
    files = [*output.glob("train/*"), *output.glob("val/*")]
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(files)}


def test_shards_have_the_requested_samples_and_lists_of_origins(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    select(config(sources))
    out = sources / "out"
    train, val = read(out / "train"), read(out / "val")
    assert [len(read_with_webdataset(p)) for p in sorted((out / "train").glob("*.tar"))] == [
        8,
        8,
        5,
    ]
    assert [s["__key__"] for s in train] == [f"{n:09d}" for n in range(21)]
    images = [s["jpg"] for s in [*train, *val]]
    assert len(set(images)) == len(images) == 24

    origin = {
        s["jpg"]: s
        for name in ("a0", "a1", "b0")
        for s in read_with_webdataset(sources / f"{name}.tar")
    }
    for copied in [*train, *val]:
        for name in ("jpg", "txt", "json"):
            assert copied[name] == origin[copied["jpg"]][name]
    lists = [
        line.split("\t")
        for p in sorted(out.glob("train/*.tsv"))
        for line in p.read_text().splitlines()[1:]
    ]
    assert [line[0] for line in lists] == [s["__key__"] for s in train]
    for line, copied in zip(lists, train, strict=True):
        there = {s["__key__"]: s for s in read_with_webdataset(sources / line[2])}
        assert there[line[3]]["jpg"] == copied["jpg"]
        assert line[1] == line[2][0]

    men = str(sum(b"Men" in s["txt"] for s in train))
    table = [line.split() for line in (out / "report.txt").read_text().splitlines()]
    assert table[0] == ["a", "b", "all"]
    numbers = {" ".join(row[:-3]): row[-3:] for row in table[1:11]}
    assert numbers == {
        "held": ["20", "14", "34"],
        "unreadable": ["0", "1", "1"],
        "too small": ["0", "1", "1"],
        "duplicates": ["0", "2", "2"],
        "usable": ["20", "10", "30"],
        "usable people": ["5", "0", "5"],
        "validation": ["0", "3", "3"],
        "wanted": ["14", "7", "21"],
        "training": ["14", "7", "21"],
        "training people": [men, "0", men],
    }  # fmt: skip
    said = capsys.readouterr().out
    assert said == (out / "report.txt").read_text()
    assert f"data.train_shards='{out}/train/*.tar' data.val_shards='{out}/val/*.tar'" in said
    assert (out / "unreadable.txt").read_text().startswith("b0.tar/012: ")
    assert sum(len(i.starts) for i in index_shards(sorted((out / "train").glob("*.tar")))) == 21


def test_bytes_depend_on_the_seed_and_not_on_the_workers(sources: Path) -> None:
    select(config(sources))
    select(config(sources, output=str(sources / "again"), num_workers=1))
    select(config(sources, output=str(sources / "other"), seed=1))
    first = contents(sources / "out")
    assert first == contents(sources / "again")
    assert first.keys() == contents(sources / "other").keys()
    assert first != contents(sources / "other")


def test_no_image_is_read_a_second_time(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select(config(sources))
    before = contents(sources / "out")
    surveyed: list[SurveyRules] = []

    def survey_and_remember(shard: ShardIndex, rules: SurveyRules) -> Survey:
        surveyed.append(rules)
        return survey_shard(shard, rules)

    monkeypatch.setattr("vqgan_train.preparation.survey.survey_shard", survey_and_remember)
    (sources / "out" / "train" / "00001.tsv").unlink()
    select(config(sources))
    assert contents(sources / "out") == before
    monkeypatch.setattr("vqgan_train.preparation.selected_shards.read_range", None)
    select(config(sources))
    assert not surveyed


@pytest.mark.parametrize(
    "other", [{"min_side": 21}, {"people_words": ("man",)}, {"detect_faces": True}], ids=str
)
def test_a_cached_survey_is_not_used_for_other_rules(
    sources: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    monkeypatch.setattr("vqgan_train.preparation.survey.find_faces", lambda _: [1])
    index = index_shard(sources / "a0.tar")
    found = []
    for rules in (RULES, replace(RULES, **other)):
        with tqdm(disable=True) as bar:
            (survey,) = survey_shards([index], rules, num_workers=0, bar=bar)
        expected = survey_shard(index, rules)
        np.testing.assert_array_equal(survey.states, expected.states)
        np.testing.assert_array_equal(survey.people, expected.people)
        found.append([*survey.states, *survey.people])
    assert found[0] != found[1]


def test_damaged_surveys_and_changed_shards_are_surveyed_again(sources: Path, cache: Path) -> None:
    select(config(sources))
    before = contents(sources / "out")
    for number, file in enumerate(sorted((cache / "survey").iterdir())):
        file.write_bytes(file.read_bytes()[:-50] if number else b"")
    select(config(sources, output=str(sources / "again")))
    assert contents(sources / "again") == before
    write_shard(sources / "b0.tar", [sample(f"{n:03d}", 500 + n) for n in range(14)])
    with pytest.raises(UserError, match="shards_fingerprint was"):
        select(config(sources))
    select(config(sources, output=str(sources / "changed")))
    assert contents(sources / "changed") != before


def test_too_few_samples_write_nothing_unless_allowed(sources: Path) -> None:
    with pytest.raises(UserError, match="b should give 10 samples for training, but has 7"):
        select(config(sources, samples=30))
    assert not (sources / "out").exists()
    select(config(sources, samples=30, allow_fewer=True))
    assert len(read(sources / "out" / "train")) == 20 + 7


def test_without_validation_there_is_no_val_folder(sources: Path) -> None:
    select(config(sources, val_samples=0))
    assert not (sources / "out" / "val").exists()
    assert "val_shards" not in (sources / "out" / "report.txt").read_text()


def test_a_survey_has_state_people_and_hash_of_each_sample(tmp_path: Path) -> None:
    samples = [
        sample("a", 1, side=16),
        sample("b", 2, side=15),
        {**sample("c", 3), "jpg": b"<html>"},
        {**sample("d", 4), "jpg": image_bytes(16, 17 * 50)},
        sample("e", 5, caption="Two MEN, one human"),
        sample("f", 6, caption="a human mane"),
        sample("g", 5),
    ]
    index = index_shard(write_shard(tmp_path / "x.tar", samples))
    survey = survey_shard(index, RULES)
    assert survey.states.tolist() == [GOOD, SMALL, BAD, BAD, GOOD, GOOD, GOOD]
    assert survey.people.tolist() == [False, False, False, False, True, False, False]
    assert survey.digests[4] == survey.digests[6]
    assert len(set(survey.digests.tolist())) == 6
    assert survey.bad == (
        "x.tar/c: no image format that PIL knows",
        "x.tar/d: 850 x 16 pixels is too long to crop a square from",
    )


def test_only_whole_words_match_and_no_words_match_nothing() -> None:
    pattern = word_pattern(["man", "dr. no", "c++"])
    assert pattern.search("A MAN.")
    assert not pattern.search("woman, human, manly")
    assert pattern.search("Dr. No!")
    assert not pattern.search("dr9 no")
    assert not word_pattern([]).search("a man")


def test_faces_are_found_in_photos_of_people_and_not_in_others(photo_shards: list[Path]) -> None:
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    rules = SurveyRules(min_side=16, people_words=(), detect_faces=True)
    with_people = [path for path in photo_shards if path.name.startswith("people")]
    if not with_people:
        pytest.skip("there are no photos of people")
    assert survey_shard(index_shard(with_people[0]), rules).people.all()


def test_faces_are_looked_for_in_upright_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phones store photos on their side, where the detector finds no face."""
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(people, "find_faces", lambda image: shapes.append(image.shape) or [])
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = io.BytesIO()
    Image.new("RGB", (40, 20)).save(encoded, "JPEG", exif=exif)
    index = index_shard(
        write_shard(tmp_path / "x.tar", [{"__key__": "a", "jpg": encoded.getvalue()}])
    )
    survey_shard(index, replace(RULES, detect_faces=True))
    assert shapes == [(3, 40, 20)]


def test_a_large_image_is_reduced_before_faces_are_looked_for() -> None:
    image = torch.arange(3 * 30 * 2000).reshape(3, 30, 2000).to(torch.uint8)
    assert people._scale_down(image).shape == (3, 8, 500)
    assert torch.equal(people._scale_down(image[:, :, :400]), image[:, :, :400])


def test_face_detection_without_dlib_is_refused_at_once(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    faces = PeopleConfig(multiplier=2.0, words=[], detect_faces=True)
    with pytest.raises(UserError, match=r"needs dlib.*pip install 'vqgan_train\[faces\]'"):
        select(config(sources, people=faces))


@pytest.mark.slow
def test_a_killed_selection_resumes_and_writes_the_same_bytes(tmp_path: Path) -> None:
    for shard in range(6):
        numbers = range(shard * 20, shard * 20 + 20)
        write_shard(
            tmp_path / f"{shard}.tar",
            [{"__key__": f"{n:03d}", "png": image_bytes(500, 500, seed=n)} for n in numbers],
        )
    only = {"sources": {"yfcc": str(tmp_path / "?.tar")}, "weights": {"yfcc": 1.0}}
    wanted = {**only, "val_source": "yfcc", "samples": 100, "samples_per_shard": 4}
    select(config(tmp_path, output=str(tmp_path / "reference"), **wanted))
    expected = contents(tmp_path / "reference")
    command = [
        sys.executable, "-m", "vqgan_train.select", "sources.cc3m=null",
        "sources.yfcc=?.tar",
        "output=out", "samples=100", "val_samples=3", "samples_per_shard=4", "min_side=16",
        "num_workers=0",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "another_cache")}
    survey, train = (
        tmp_path / "another_cache" / "vqgan_train" / "survey",
        tmp_path / "out" / "train",
    )
    for watched in (survey, train, train):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        before = len(list(watched.glob("*")))
        while len(list(watched.glob("*"))) < before + 2:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, content in contents(tmp_path / "out").items():
            assert name.endswith(".partial") or content == expected[name]
    assert len(list(survey.glob("*.npz"))) == 6
    assert len(list(train.glob("*.tar"))) < 25
    subprocess.run(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, check=True)
    found = contents(tmp_path / "out")
    assert found == expected
    with tarfile.open(tmp_path / "out" / "train" / "00000.tar") as tar:
        assert tar.getnames()[0] == "000000000.png"
    assert json.loads((tmp_path / "out" / "job.json").read_text())["samples"] == 100
