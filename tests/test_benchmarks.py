"""Benchmark scripts: the tables in docs equal the JSON files, and a small part of each runs."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from factories import TINY_ARCHITECTURE, image_bytes, write_shard
from pyarrow import parquet

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script as Python does that runs it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("name", "table", "to_table"),
    [
        ("bench_data", "data", "to_table"),
        ("bench_memory", "memory", "to_table"),
        ("fault_table", "readers", "to_table"),
        ("kill_runs", "kills", "to_table"),
        ("bench_loop", "loop", "to_table"),
        ("bench_step", "step on cpu", "to_table"),
        ("model_memory", "step memory", "to_table"),
        ("bench_evaluate", "evaluation memory", "to_table"),
        ("compare_precisions", "one batch", "batch_table"),
        ("compare_precisions", "200 steps", "run_table"),
    ],
)
def test_the_table_is_what_the_json_says(
    name: str, table: str, to_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, pages = script(name, monkeypatch), script("pages", monkeypatch)
    results = json.loads(module.RESULTS.read_text())
    assert pages.held(module.PAGE, table) == getattr(module, to_table)(results)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_table_beside_a_modern_trainer_is_what_the_json_says(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, pages = script("bench_step", monkeypatch), script("pages", monkeypatch)
    results = json.loads((module.RESULTS.parent / f"step_modern_{precision}.json").read_text())
    assert pages.held(module.PAGE, f"modern step, {precision}") == module.to_table(results)


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
    results = module.measure([str(shard)], rounds=2, max_images=400)
    assert results["settings"]["images_a_turn"] == 8
    speeds = results["images_a_second_and_core"]
    assert {name: len(turns) for name, turns in speeds.items()} == {
        "ours": 2, "pil": 2, "simplejpeg": 2,
    }  # fmt: skip
    assert "Left out: original: albumentations is not installed." in module.to_table(results)


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
    monkeypatch.setattr(module, "MAX_SECONDS", 1)
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


@pytest.mark.slow
def test_the_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("bench_step", monkeypatch)
    sides = ("original", "ours", "ours, bf16", "ours, recomputing", "modern")
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
        module.count_step(size, 64, "small", *settings).peak
        for size, settings in ((1, ()), (2, ()), (2, sparing))
    )
    assert one < two
    assert spared < two
    weights = 4 * 3  # weight, two moments, in float32: no step holds less
    assert one > weights * 500_000


@pytest.mark.slow
def test_a_step_moves_no_more_memory_than_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("model_memory", monkeypatch)
    bf16 = ("f16_16384", "trainer.precision=bf16")
    one, two = (module.count_step(size, 256, *bf16) for size in (1, 2))
    assert two.traffic - one.traffic < 8e9


def test_the_largest_batch_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("model_memory", monkeypatch)
    assert module.largest_batch({"fixed_gb": 1.0, "image_gb": 0.5}, 10, 0.2) == 14
    assert module.largest_batch({"fixed_gb": 30.0, "image_gb": 0.5}, 24, 0.2) == 0


def test_both_ways_to_encode_give_as_many_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("bench_encode", monkeypatch)
    for name in ("taming.main", "taming.models.vqgan"):  # the script replaces the first
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    monkeypatch.setattr(module, "SIDE", 32)
    monkeypatch.setattr(module, "ARCHITECTURE", {**module.ARCHITECTURE, **TINY_ARCHITECTURE})
    photos = [
        {"__key__": str(n), "jpg": image_bytes(40, 48, seed=n, file_format="JPEG")}
        for n in range(3)
    ]
    checkpoint = module.make_weights(tmp_path)
    shard, files = module.make_photos([write_shard(tmp_path / "a.tar", photos)], 3, tmp_path)
    module.our_way(checkpoint, shard, tmp_path, 2)(0)
    module.originals_way(checkpoint, files, tmp_path, 2)(0)
    for written in (*(tmp_path / "ours0").glob("*.parquet"), tmp_path / "original0.parquet"):
        rows = parquet.read_table(written).column("encoding").to_pylist()
        assert [len(row) for row in rows] == [256] * 3


@pytest.mark.slow
def test_evaluations_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("bench_evaluate", monkeypatch)
    results = module.measure([100, 200], num_workers=1)
    assert [run["images"] for run in results["runs"]] == [100, 200]
    assert all(run["most_resident_bytes"] > 200e6 for run in results["runs"])
    assert "| 100 |" in module.to_table(results)
