"""`check_data`: exit codes, JSON report, printed report and settings."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broken_shards import photo_bytes, write_broken_shards
from factories import image_samples, write_shard
from tiny_runs import compose_settings

from vqgan_train.check_data import main
from vqgan_train.cli import INTERRUPTED, USER_ERROR, explain, user_can_fix
from vqgan_train.config.checks import setting_names
from vqgan_train.config.preparation import CheckDataConfig
from vqgan_train.preparation.check.check_data import PROBLEMS_FOUND, check_data

PAGE = Path(__file__).parents[1] / "docs" / "data_check.md"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "environ", os.environ.copy())


def config_of(*overrides: str) -> CheckDataConfig:
    return compose_settings("check_data", CheckDataConfig, *overrides)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["check_data", "num_workers=0", *arguments])
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    assert isinstance(code, int)
    return code


def python_m(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "vqgan_train.check_data", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_good_shards_end_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard(tmp_path / "a.tar", image_samples(3))
    assert run(monkeypatch, f"shards={shard}", "image_size=16") == 0
    out = capsys.readouterr().out
    assert "3 of 3 can be read" in out
    assert "problems    none" in out


def test_problems_end_with_1_and_the_report_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_broken_shards(tmp_path / "shards")
    output = tmp_path / "reports" / "report.json"
    arguments = f"shards={tmp_path}/shards/*.tar", f"output={output}"
    assert run(monkeypatch, *arguments) == PROBLEMS_FOUND
    report = json.loads(output.read_text())
    assert {kind: entry["count"] for kind, entry in report["problems"].items()} == {
        "unusable": 2,
        "damaged": 1,
        "unreadable": 3,
        "without_image": 3,
        "several_images": 1,
        "incomplete": 2,
        "same_key": 1,
        "unsafe_name": 1,
    }
    assert report["shards"] == len(report["images_per_shard"]) == 7
    assert report["images"] == sum(report["images_per_shard"].values())
    out = capsys.readouterr().out
    for group in ("problems", "notes"):
        for entry in report[group].values():
            assert f"  {entry['count']:,} {entry['what']}\n" in out
            assert entry["examples"][0] in out
    assert [path.name for path in output.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "shards has no value yet. Give it one: shards=..."),
        (["shards=null"], "shards is null; name at least one tar file"),
        (["shards=none/*.tar"], "No file matches none/*.tar"),
        (["shards=a.tar", "shards=b.tar"], "shards is given 2 times"),
        (["shards=a.tar", "image_sizes=1"], "Did you mean image_size"),
        (["shards=a.tar", "num_workers=-1"], "num_workers is -1"),
        (["shards=a.tar", "image_size=0"], "image_size is 0"),
        (["shards={here}", "output=."], "output=. is a folder"),
        (["shards={here}", "output=/proc/none/x.json"], "/proc/none"),
    ],
)
def test_wrong_settings_end_with_2_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.tar").write_bytes(b"not read")
    arguments = [override.replace("{here}", "here.tar") for override in overrides]
    monkeypatch.setattr(sys, "argv", ["check_data", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == USER_ERROR
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert [path.name for path in tmp_path.iterdir()] == ["here.tar"]


def test_shards_are_a_pattern_or_a_list_of_them() -> None:
    assert config_of("shards='{0..9}.tar'").shards == ["{0..9}.tar"]
    assert config_of("shards=[a.tar,b.tar]").shards == ["a.tar", "b.tar"]


def test_every_setting_is_explained_and_read() -> None:
    page = PAGE.read_text()
    source = Path(inspect.getfile(check_data)).read_text()
    for name in setting_names(CheckDataConfig):
        assert f"`{name}=" in page
        assert f"config.{name}" in source


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    write_broken_shards(tmp_path / "shards")
    reports = []
    for num_workers in (0, 2):
        output = tmp_path / f"{num_workers}.json"
        config = config_of(
            f"shards='{tmp_path}/shards/*.tar'",
            f"output={output}",
            f"num_workers={num_workers}",
        )
        with pytest.raises(SystemExit):
            check_data(config)
        reports.append(json.loads(output.read_text()))
    assert reports[0] == reports[1]


def test_the_page_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_broken_shards(tmp_path / "broken")
    run(monkeypatch, "shards=broken/*.tar")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 30
    shown = PAGE.read_text().replace("\n    ", "\n")
    assert printed in shown


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    photo = photo_bytes(height=600, width=800)
    samples = [{"__key__": f"{number}", "jpg": photo} for number in range(20)]
    first = write_shard(tmp_path / "000.tar", samples)
    for number in range(1, 500):
        (tmp_path / f"{number:03d}.tar").hardlink_to(first)
    process = python_m("shards=*.tar", "num_workers=2", "output=r.json", cwd=tmp_path)
    assert process.stderr is not None
    seen = ""
    while not re.search(r" [1-9]\d*/500 ", seen):  # some shards are done
        letter = process.stderr.read(1)
        assert letter, f"it ended by itself: {seen}"
        seen += letter
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == INTERRUPTED, err
    done = [int(number) for number in re.findall(r" (\d+)/500 ", seen + err)]
    assert done[-1] < 400, "it read on to the end"
    assert "Traceback" not in seen + err
    assert not (tmp_path / "r.json").exists()


def test_errors_are_the_users(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No file matches") as raised:
        check_data(config_of(f"shards={tmp_path}/x*.tar"))
    assert user_can_fix(raised.value)
    assert explain(raised.value, CheckDataConfig).startswith("No file matches")
