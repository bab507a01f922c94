"""scripts/check_gpu.py: failures, time limits and tables; all of it on a CPU."""

import importlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from vqgan_train.shards.sample_photos import pack_sample_photos

ROOT = Path(__file__).parents[1]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module(name)


WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{\"equal\": 1}')"


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("", None),
        ("; sys.exit(3)", "exit code 3"),
        ("; import time; time.sleep(600)", "stopped after 1 s"),
    ],
)
def test_a_part_keeps_its_results_whatever_becomes_of_it(
    then: str, error: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    limit = 1 if "sleep" in then else 60
    command = [sys.executable, "-I", "-S", "-c", WRITE + then, str(file)]
    results = script("check_gpu", monkeypatch).run_limited(command, limit, file)
    # The machine may be too busy for the first line within a second.
    assert results.get("equal", 1 if error else None) == 1
    assert results.get("error") == error


def test_what_a_stopped_part_has_started_is_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = tmp_path / "child"
    start = f"sleep 600 & echo $! > {number}.part; mv {number}.part {number}; exit 1"
    script("check_gpu", monkeypatch).run_limited(["sh", "-c", start], 60, tmp_path / "none")
    child = int(number.read_text())
    deadline = time.monotonic() + 60
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_an_error_is_recorded_after_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("check_gpu", monkeypatch)

    def part(device: str, sizes: object) -> object:
        yield {"equal": 0.5}
        raise ValueError(f"half of them on {device}")

    monkeypatch.setitem(module.PARTS, "tokens", (part, 1))
    with pytest.raises(ValueError, match="half of them"):
        module.carry_out("tokens", "cpu", tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"equal": 0.5, "error": "ValueError: half of them on cpu"}


def test_all_parts_together_take_eight_minutes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = script("gpu_parts", monkeypatch).PARTS
    assert sum(seconds for _, seconds in parts.values()) <= 8 * 60


def test_one_photo_of_the_copy_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = script("gpu_parts", monkeypatch)
    source, _ = pack_sample_photos()
    module.damage_one_photo(source, tmp_path / "copy.tar")
    unreadable = []
    with tarfile.open(tmp_path / "copy.tar") as copy, tarfile.open(source) as original:
        assert copy.getnames() == original.getnames()
        for member in copy:
            content = copy.extractfile(member)
            assert content is not None
            if member.name.endswith(".jpg"):
                try:
                    Image.open(io.BytesIO(content.read())).load()
                except OSError:
                    unreadable.append(member.name)
    assert len(unreadable) == 1


def test_tables_say_what_failed_and_what_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("check_gpu", monkeypatch)
    lost = {"error": "stopped after 30 s", "seconds": 30.0}
    turns = {"original": {"8": [2.0, 2.0], "64": []}, "ours, bf16": {"8": [0.5], "64": [4.0]}}
    parts = dict.fromkeys(module.PARTS, lost) | {"steps": {"seconds_a_step": turns, "seconds": 9.0}}
    where = {"date": "2026-01-01", "cores": 16, "versions": {"torch": "3"}}
    text = module.to_markdown({"parts": parts, "device": "a GPU", "machine": where})
    assert "| tokens | stopped after 30 s | 30.0 |" in text
    assert "| ours, bf16 | 8 | 16 | 4.00 |" in text
    assert "| original | 64 | out of memory |  |" in text
    assert "| ours, bf16 | 64 | 16 |  |" in text


@pytest.mark.slow
def test_all_parts_work_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("check_gpu", monkeypatch)
    monkeypatch.setattr(  # a busy machine may take longer
        module, "PARTS", {name: (part, 600) for name, (part, _) in module.PARTS.items()}
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    results = module.check("cpu")
    assert {name: part["error"] for name, part in results["parts"].items() if "error" in part} == {}
    parts = results["parts"]
    assert parts["tokens"]["equal"]["fp32"] == 1
    assert len(parts["kernels"]["ours, bf16"]) == 10
    assert parts["run"]["bad_samples"] >= 1
    assert parts["run"]["steps"] == 10
    assert "| ours, bf16 | 1 |" in module.to_markdown(results)
