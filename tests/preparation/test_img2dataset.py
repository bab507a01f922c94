"""img2dataset downloading from a local web server with good and bad links."""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import read_with_webdataset
from photo_server import large_png, photo_server
from PIL import Image

from vqgan_train.config.preparation import LinksConfig
from vqgan_train.preparation.download import options_of, report_lines
from vqgan_train.preparation.img2dataset import (
    REQUIREMENT,
    DownloadReport,
    prepare_environment,
    read_report,
    remove_empty_shards,
    require_min_success,
    run_img2dataset,
)
from vqgan_train.preparation.links import BadRows
from vqgan_train.shards.index import index_shard
from vqgan_train.system.errors import UserError

TROUBLES = ("page", "slow", "broken", "short", "noai")


@pytest.fixture(scope="module")
def cache_with_img2dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the environment was made, as a first run makes it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        try:
            prepare_environment(None)
        except UserError as error:
            pytest.skip(f"{REQUIREMENT} cannot be installed here: {str(error).splitlines()[0]}")
    return folder


@pytest.fixture
def photos(photo_shards: list[Path]) -> dict[str, bytes]:
    """Sixty real photos by name, and one PNG that is large."""
    samples = read_with_webdataset(photo_shards[0])
    return {f"{s['__key__']}.jpg": s["jpg"] for s in samples[:60]} | {"large.png": large_png()}


@pytest.fixture
def server(photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with photo_server(photos) as address:
        yield address


def command(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"vqgan_train.{name}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def stats_times(shards: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(shards.glob("*_stats.json"))}


@pytest.mark.slow
def test_cc3m_from_its_list_to_samples(
    cache_with_img2dataset: Path,
    photos: dict[str, bytes],
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_with_img2dataset))
    names = list(photos)
    bad = [*(f"{names[0]}?{trouble}" for trouble in TROUBLES), *(f"gone{n}.jpg" for n in range(11))]
    rows = [f'"{name}, {n} "quoted\t{server}/{name}' for n, name in enumerate([*names, *bad])]
    listed = tmp_path / "Train_GCC-training.tsv"
    listed.write_text("\n".join([*rows, "caption\turl", "no tab at all", ""]))

    small = ["samples_per_shard=25", "processes=2", "threads=4", "timeout_seconds=2", "retries=0"]
    arguments = [f"links={listed}", "output=cc3m", *small]
    finished = command("prepare_cc3m", *arguments, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    said = finished.stdout[finished.stdout.index("links   ") :]
    assert f"downloaded        61 ({61 / len(rows):.1%})" in said
    for reason in (
        "11 x HTTP Error 404",
        "2 x Image decoding error",  # the page, and half a JPEG
        "timed out",
        "1 x IncompleteRead",
        "1 x Use of image disallowed by X-Robots-Tag",
    ):
        assert reason in said
    assert "left out     2 without a link: Train_GCC-training.tsv, line 78: 'caption\\turl'" in said

    shards = sorted((tmp_path / "cc3m" / "shards").glob("*.tar"))
    read = [sample for shard in shards for sample in read_with_webdataset(shard)]
    samples = {json.loads(sample["json"])["url"]: sample for sample in read}
    for number, name in enumerate(names[:-1]):
        sample = samples[f"{server}/{name}"]
        assert sample["txt"].decode() == f'"{name}, {number} "quoted'
        assert_kept(sample["jpg"], photos[name], 512)
    with Image.open(io.BytesIO(samples[f"{server}/large.png"]["jpg"])) as large:
        assert (large.format, large.size) == ("JPEG", (683, 512))
    assert all(len(index_shard(shard).starts) for shard in shards)

    before = stats_times(tmp_path / "cc3m" / "shards")
    assert len(before) == 4
    assert len(shards) == 3
    assert (
        "shards            3: 'cc3m/shards/*.tar'\n                  1 more without any image"
        in said
    )
    (tmp_path / "cc3m" / "shards" / "00001_stats.json").unlink()  # as if killed in that shard
    finished = command("prepare_cc3m", *arguments, cwd=tmp_path)
    assert finished.stdout.endswith(said)
    after = stats_times(tmp_path / "cc3m" / "shards")
    assert [name for name in after if after[name] != before[name]] == ["00001_stats.json"]


def assert_kept(now: bytes, before: bytes, shorter_side: int) -> None:
    """A small JPEG is kept bit for bit; of others the shape is."""
    with Image.open(io.BytesIO(before)) as image:
        size = image.size
    if min(size) <= shorter_side:
        assert hashlib.sha256(now).digest() == hashlib.sha256(before).digest()
        return
    with Image.open(io.BytesIO(now)) as image:
        assert min(image.size) == shorter_side


@pytest.mark.slow
def test_yfcc_links_with_too_many_failures(
    cache_with_img2dataset: Path,
    photos: dict[str, bytes],
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_with_img2dataset))
    records = [
        {"title_clean": "Photo", "description_clean": name, "downloadurl": f"{server}/{path}"}
        for name in list(photos)[:4]
        for path in (name, f"not_{name}", f"neither_{name}")
    ]
    with gzip.open(tmp_path / "metadata_001.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    arguments = ["links=*.jsonl.gz", "output=yfcc", "processes=1", "threads=2"]
    finished = command("prepare_yfcc_links", *arguments, "min_success_fraction=0.5", cwd=tmp_path)
    assert finished.returncode == 2
    assert "downloaded        4 (33.3%)" in finished.stdout
    assert "Only 4 of 12 images were downloaded, fewer than min_success_fraction=0.5: 8 x HTTP" in (
        finished.stderr
    )
    (shard,) = (tmp_path / "yfcc" / "shards").glob("*.tar")
    assert {s["txt"].decode() for s in read_with_webdataset(shard)} == {
        f"Photo. {name}" for name in list(photos)[:4]
    }


def stats(folder: Path, number: int, **changes: object) -> None:
    values = {"count": 10, "successes": 7, "duration": 2.0, "status_dict": {"success": 7, "x": 3}}
    folder.mkdir(exist_ok=True)
    (folder / f"{number:05d}_stats.json").write_text(json.dumps(values | changes))


def test_stats_are_summed_and_lost_samples_counted(tmp_path: Path) -> None:
    stats(tmp_path, 0)
    stats(tmp_path, 1, status_dict={"success": 7, "HTTP Error 404: Not Found": 1})
    report = read_report(tmp_path, [10, 5], 10)
    assert report == DownloadReport(
        20, 14, Counter({"x": 3, "HTTP Error 404: Not Found": 1, "lost inside img2dataset": 2})
    )


def test_an_unfinished_shard_is_named(tmp_path: Path) -> None:
    stats(tmp_path, 0)
    stats(tmp_path, 2)
    with pytest.raises(UserError, match=r"1 of 3 shards .* not finished; .* 00001\. Run"):
        read_report(tmp_path, [11, 5], 10)


def test_shards_without_any_image_are_removed(tmp_path: Path) -> None:
    for number, successes in enumerate((7, 0, 1)):
        stats(tmp_path, number, successes=successes)
        (tmp_path / f"{number:05d}.tar").touch()
    assert remove_empty_shards(tmp_path) == 1
    assert remove_empty_shards(tmp_path) == 1  # the same, which is gone
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["00000.tar", "00002.tar"]
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_rare_reasons_are_summed_and_bad_rows_shown(tmp_path: Path) -> None:
    reasons = Counter({f"reason {n}": 20 - n for n in range(10)})
    report = DownloadReport(200, 45, reasons)
    said = report_lines(report, BadRows(2, ["a.tsv, line 1: ''"]), tmp_path, num_removed=0)
    assert [line.strip() for line in said[2:-2]] == [
        "failed            155",
        *(f"{20 - n} x reason {n}" for n in range(8)),
        "23 x 2 other reasons",
    ]
    assert said[-2] == "rows left out     2 without a link: a.tsv, line 1: ''"


@pytest.mark.parametrize(("number", "fraction"), [(3, 0.3), (10, 1.0), (0, 0.0)])
def test_a_fraction_of_at_least_the_minimum_is_accepted(number: int, fraction: float) -> None:
    require_min_success(DownloadReport(10, number, Counter(x=10 - number)), fraction)


def test_a_failing_img2dataset_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "img2dataset"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    assert prepare_environment(tmp_path) == program
    with pytest.raises(UserError, match="exit code 3"):
        run_img2dataset(program, {})


def test_an_environment_without_img2dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"pip install {REQUIREMENT}"):
        prepare_environment(tmp_path)


def test_a_python_without_imghdr_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"needs Python 3\.12 or older"):
        prepare_environment(None)


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="img2dataset cannot be installed on this Python at all"
)
def test_a_failed_installation_is_reported_and_repeated(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"false -m venv (?s:.*) environment=FOLDER"):
            prepare_environment(None)
    assert not list(cache.glob("img2dataset-*/ready"))


def test_a_null_side_keeps_the_size() -> None:
    config = LinksConfig(
        links="x", output="y", samples_per_shard=2, shorter_side=256, processes=1, threads=1,
        timeout_seconds=1, retries=0, min_success_fraction=0.3, environment=None,
    )  # fmt: skip
    folders = Path("lists"), Path("shards")
    assert options_of(config, *folders)["resize_mode"] == "keep_ratio"
    config.shorter_side = None
    assert options_of(config, *folders)["resize_mode"] == "no"
