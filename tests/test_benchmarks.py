"""Scripts that measure: their tables are what their JSON says, and a small part of each runs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from factories import image_bytes, write_shard

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script as Python does that runs it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("bench_data", "data"),
        ("bench_memory", "memory"),
        ("fault_table", "readers"),
        ("kill_runs", "kills"),
        ("bench_loop", "loop"),
        ("bench_step", "step on cpu"),
        ("model_memory", "step memory"),
        ("bench_evaluate", "evaluation memory"),
    ],
)
def test_the_table_is_what_the_json_says(
    name: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, pages = script(name, monkeypatch), script("pages", monkeypatch)
    results = json.loads(module.RESULTS.read_text())
    assert pages.held(module.PAGE, table) == module.to_table(results)


def test_a_table_is_put_between_its_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = script("pages", monkeypatch)
    page = tmp_path / "page.md"
    markers = "<!-- a: made by a script -->\n{}<!-- end of a -->\n"
    others = markers.format("").replace(" a", " b")
    page.write_text(f"before\n{markers.format('old')}after\n{others}")
    pages.put(page, "a", "new")
    pages.put(page, "a", "newer")
    assert page.read_text() == f"before\n{markers.format('newer' + chr(10))}after\n{others}"
    assert pages.held(page, "a") == "newer"
    with pytest.raises(ValueError, match="has no lines"):
        pages.put(page, "c", "")


def test_ours_is_at_least_as_fast_as_the_originals_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the figures that are published: how fast this machine is at this moment says little."""
    module = script("bench_data", monkeypatch)
    speeds = json.loads(module.RESULTS.read_text())["images_a_second_and_core"]
    ratios = sorted(a / b for a, b in zip(speeds["ours"], speeds["original"], strict=True))
    assert ratios[len(ratios) // 2] >= 1


def test_the_benchmark_measures_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("bench_data", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    samples = [
        {"__key__": f"{n}", "jpg": image_bytes(280, 300, seed=n, file_format="JPEG")}
        for n in range(9)
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    results = module.measure([str(shard)], rounds=2, most_images=400)
    assert results["settings"]["images_a_turn"] == 8
    speeds = results["images_a_second_and_core"]
    assert {name: len(turns) for name, turns in speeds.items()} == {
        "ours": 2, "pil": 2, "simplejpeg": 2,
    }  # fmt: skip
    assert "Left out: original: albumentations is not installed." in module.to_table(results)


def test_the_original_reads_what_ours_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("albumentations", reason="the extra `benchmarks` is not installed")
    module = script("bench_data", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    samples = [
        {"__key__": f"{n}", "jpg": image_bytes(280, 300, seed=n, file_format="JPEG")}
        for n in range(8)
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    results = module.measure([str(shard)], rounds=1, most_images=8)
    assert results["most_grey_levels_between_ours_and_original"] == 1


def test_a_part_of_the_fault_table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("fault_table", monkeypatch)
    published = json.loads(module.RESULTS.read_text())
    assert published["every"] == 1
    results = module.measure(every=211)
    names = [(row["section"], row["fault"]) for row in results["rows"]]
    assert names == [(row["section"], row["fault"]) for row in published["rows"]]
    for row in [*results["rows"], *published["rows"]]:
        assert row["bug"] == 0, row["messages"]
        assert not any("/tmp" in text or str(ROOT) in text for text in row["messages"].values())
        assert row["tried"] == row["converted"] + row["named"] + row["refused"] > 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("named", "nothing told"),
        ("image", "another one"),
        ("error", "KeyError"),
        ("hang", "HangError"),
    ],
)
def test_the_fault_table_sees_bugs(
    broken: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, faults = script("fault_table", monkeypatch), script("faults", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    read = module.ShardDataset.__getitem__

    def read_badly(data: Any, draw: Any) -> Any:
        if broken == "error":
            raise KeyError(draw)
        while broken == "hang":
            pass
        sample = read(data, draw)
        return sample._replace(image=sample.image + (broken == "image"))

    monkeypatch.setattr(module.ShardDataset, "__getitem__", read_badly)
    if broken == "named":
        monkeypatch.setattr(module.log, "disabled", True)
    small = faults.tar(faults.small_members())
    outcome, text = module._try_shard(tmp_path, faults.ShardFault(small[:4000], images=None))
    assert outcome == "bug"
    assert message in text


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more on this machine, with few small photos and readers that stay."""
    module = script("bench_memory", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    samples = [
        {"__key__": f"{n}", "jpg": image_bytes(200, 220, seed=n, file_format="JPEG")}
        for n in range(40)
    ]
    shard = write_shard(tmp_path / "a.tar", samples)
    results = module.measure([str(shard)], num_workers=2, images_an_epoch=160)
    assert all(growth < 0.05 for growth in module.growths(results).values()), results


@pytest.mark.parametrize(
    ("table", "to_table"), [("one batch", "batch_table"), ("200 steps", "run_table")]
)
def test_the_tables_of_precisions_are_what_the_json_says(
    table: str, to_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, pages = script("compare_precisions", monkeypatch), script("pages", monkeypatch)
    results = json.loads(module.RESULTS.read_text())
    assert pages.held(module.PAGE, table) == getattr(module, to_table)(results)


def test_bf16_moves_results_no_more_than_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the figures that are published."""
    module = script("compare_precisions", monkeypatch)
    gaps = module.gaps(json.loads(module.RESULTS.read_text()))
    for name, gap in gaps["between precisions"].items():
        if name != "val/codebook/used":  # docs/speed.md says what became of it
            assert gap <= gaps["between seeds"][name], name


def test_our_step_is_faster_and_begins_with_the_originals_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the figures that are published."""
    module = script("bench_step", monkeypatch)
    results = json.loads(module.RESULTS.read_text())
    best = {name: max(module.speeds(results, name).values()) for name in results["seconds_a_step"]}
    assert best["ours"] >= 1.4 * best["original"]
    first = results["loss_of_the_first_step"]
    assert first["ours"] == pytest.approx(first["original"], rel=1e-4)


@pytest.mark.slow
def test_the_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("bench_step", monkeypatch)
    sides = ("original", "ours", "ours, bf16", "ours, recomputing")
    seconds, first = module.take_turns(sides, "small", 2, 64, 1, "cpu")
    assert all(len(turns) == 1 for turns in seconds.values())
    assert first["ours"] == pytest.approx(first["original"], rel=1e-4)
    assert first["ours, recomputing"] == pytest.approx(first["ours"], rel=1e-6)
    alone = {name: module.examine(name, "small", 2, 64, "cpu") for name in sides[:2]}
    assert alone["original"]["gflop_an_image"] > 1.3 * alone["ours"]["gflop_an_image"] > 0


def test_memory_is_counted_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("model_memory", monkeypatch)
    sparing = ("trainer.recompute_activations=true",)
    one, two, spared = (
        module.peak_bytes(size, 64, "small", *settings)
        for size, settings in ((1, ()), (2, ()), (2, sparing))
    )
    assert one < two
    assert spared < two
    weights = 4 * 3  # weight, two moments, in float32: no step holds less
    assert one > weights * 500_000


def test_the_largest_batch_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("model_memory", monkeypatch)
    assert module.largest_batch({"fixed_gb": 1.0, "image_gb": 0.5}, 10, 0.2) == 14
    assert module.largest_batch({"fixed_gb": 30.0, "image_gb": 0.5}, 24, 0.2) == 0


def test_an_image_costs_an_evaluation_less_than_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the figures that are published: of 256 x 256 pixels."""
    module = script("bench_evaluate", monkeypatch)
    results = json.loads(module.RESULTS.read_text())
    assert results["bytes_an_image"] == module.bytes_an_image(results["runs"])
    assert results["bytes_an_image"] < 256 * 256 * 3 / 10


def test_memory_is_that_of_a_process_and_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("bench_evaluate", monkeypatch)
    grow = "import sys, time; held = bytearray(50_000_000); print(flush=True); sys.stdin.read()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        family = list(module._family(process.pid))
        assert family[0] == process.pid
        assert len(family) == 2
        assert 50e6 < sum(map(module._resident_bytes, family)) < 100e6
        process.stdin.close()


@pytest.mark.slow
def test_evaluations_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("bench_evaluate", monkeypatch)
    results = module.measure([100, 200], num_workers=1)
    assert [run["images"] for run in results["runs"]] == [100, 200]
    assert all(run["most_resident_bytes"] > 200e6 for run in results["runs"])
    assert "| 100 |" in module.to_table(results)
