"""Remote shards in training: counted, downloaded, and read in the sample order."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import image_samples, write_shard
from faulty_server import FaultyServer, drop_after, other, stall_after, status
from tiny_runs import wait_until

from vqgan_train.images.transforms import ImageTransform
from vqgan_train.shards.remote import retries
from vqgan_train.shards.remote.counts import COUNT_FILE, stats_address
from vqgan_train.shards.remote.disk_cache import CacheFullError, DiskCache
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import ShardError
from vqgan_train.training.data import prefetch
from vqgan_train.training.data.data_module import ShardDataModule
from vqgan_train.training.data.orders import SampleOrder, WindowedShuffle
from vqgan_train.training.data.pipeline import PlannedBatches
from vqgan_train.training.data.prefetch import PrefetchedBatches, Prefetcher
from vqgan_train.training.data.weighted import WeightedSampling

SIZES = (5, 3, 7, 4, 6, 5)
TOTAL = sum(SIZES)
TRANSFORM = ImageTransform(16, 16, random_crop=False, random_flip=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    """Serve six shards with statistics, whose keys number the samples, and a validation shard."""
    folder = tmp_path / "served"
    for number, size in enumerate(SIZES):
        first = sum(SIZES[:number])
        write_shard(folder / f"{number:03d}.tar", image_samples(size, first=first))
        promise(folder, number, size)
    write_shard(folder / "val.tar", image_samples(4, first=100))
    with FaultyServer(folder) as served:
        yield served


def promise(folder: Path, number: int, successes: Any) -> None:
    stats = {"count": 99, "successes": successes, "failed_to_download": 3}
    (folder / f"{number:03d}_stats.json").write_text(json.dumps(stats))


def make_module(
    server: FaultyServer,
    tmp_path: Path,
    *,
    shards: Sequence[str] = (),
    max_bytes: int = 10**8,
    shuffle_shards: int = 2,
    batch_size: int = 2,
    num_workers: int = 0,
    machine: str = "kept",
    http: bool = False,
    stall_seconds: float = 20,
    weights: Sequence[float] | None = None,
    **trainer: Any,
) -> ShardDataModule:
    """Make a data module with a fake trainer that only has numbers.

    With `http` shards and statistics come from the server. Else commands bring them, which is
    quicker, and the numbers of samples are known.
    """
    store = ShardStore(tmp_path / machine, max_bytes, stall_seconds, attempts=2)
    names = [f"{number:03d}" for number in range(len(SIZES))]
    if http:
        addresses, val = [f"{server.url}/{name}.tar" for name in names], f"{server.url}/val.tar"
    else:
        addresses, val = [by_command(server, name) for name in names], by_command(server, "val")
        for address, size in zip(addresses, SIZES, strict=True):
            store.entry_folder(address).mkdir(exist_ok=True)
            (store.entry_folder(address) / COUNT_FILE).write_text(json.dumps({"samples": size}))

    def make_order(counts: Sequence[int]) -> SampleOrder:
        if weights is not None:
            return WeightedSampling(counts, [1] * len(counts), weights, 4, shuffle_shards)
        return WindowedShuffle(counts, 4, shuffle_shards)

    module = ShardDataModule(
        train_shards=shards or addresses,
        val_shards=[val],
        store=store,
        make_order=make_order,
        train_transform=TRANSFORM,
        val_transform=TRANSFORM,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=4,
    )
    strategy = SimpleNamespace(
        broadcast=lambda value: trainer.get("first", value),
        reduce_boolean_decision=lambda value, all: value,
    )
    numbers_of_trainer = {
        "max_steps": TOTAL,
        "global_step": 0,
        "accumulate_grad_batches": 1,
        "global_rank": 0,
        "world_size": 1,
        "strategy": strategy,
    }
    module.trainer = SimpleNamespace(**{**numbers_of_trainer, **trainer})
    module.prepare_data()
    return module


def read(module: ShardDataModule) -> tuple[list[str], list[str]]:
    """Return the names of the readable and of the unreadable samples."""
    batches = list(module.train_dataloader())
    good, bad = ([name for batch in batches for name in batch[kind]] for kind in ("name", "bad"))
    return good, bad


def shard_of(sample: int) -> int:
    return next(n for n in range(len(SIZES)) if sample < sum(SIZES[: n + 1]))


def planned(position: int, count: int, *, without: Sequence[int] = ()) -> list[str]:
    samples = [draw.sample for draw in WindowedShuffle(SIZES, 4, 2).sample_refs(position, count)]
    return [
        f"{shard_of(sample):03d}.tar/{sample:06d}" for sample in samples if sample not in without
    ]


def by_command(server: FaultyServer, name: str) -> str:
    return f"pipe:echo {name} >> {server.folder}/log; cat {server.folder}/{name}.tar"


def fetches(server: FaultyServer) -> Counter[str]:
    """Count the downloads of each training shard, from the server or by a command."""
    log = server.folder / "log"
    names = log.read_text().split() if log.exists() else []
    both = server.requests + Counter(f"{name}.tar" for name in names)
    return Counter({n: c for n, c in both.items() if n.endswith(".tar") and n != "val.tar"})


def requested(server: FaultyServer) -> set[str]:
    return set(fetches(server))


@pytest.mark.parametrize(("num_workers", "http"), [(0, False), (2, False), (2, True)])
def test_the_stream_is_the_plan(
    server: FaultyServer, tmp_path: Path, num_workers: int, http: bool
) -> None:
    module = make_module(server, tmp_path, num_workers=num_workers, http=http)
    assert read(module) == (planned(0, 2 * TOTAL), [])
    assert set(fetches(server).values()) == {1}


def test_ranks_of_a_machine_draw_everything_once_and_fetch_it_once(
    server: FaultyServer, tmp_path: Path
) -> None:
    ranks = [
        make_module(
            server, tmp_path, global_rank=rank, world_size=3, max_steps=10
        ).train_dataloader()
        for rank in range(3)
    ]
    steps = list(zip(*ranks, strict=True))
    assert [n for step in steps for batch in step for n in batch["name"]] == planned(0, 2 * TOTAL)
    assert set(fetches(server).values()) == {1}


def test_a_resumed_run_goes_on_and_fetches_what_it_needs(
    server: FaultyServer, tmp_path: Path
) -> None:
    module = make_module(server, tmp_path)
    module.trainer.global_step = 12
    state = module.state_dict()
    assert state["position"] == 24
    (server.folder / "log").unlink()
    # Another machine, in the last window of the epoch.
    resumed = make_module(server, tmp_path, machine="other", max_steps=12 + (TOTAL - 24) // 2)
    resumed.load_state_dict(state)
    assert read(resumed)[0] == planned(24, TOTAL - 24)
    assert len(requested(server)) <= 4  # this window, and the first of the next epoch


def test_another_order_has_no_place_to_go_on_from(server: FaultyServer, tmp_path: Path) -> None:
    state = make_module(server, tmp_path).state_dict()
    make_module(server, tmp_path).load_state_dict(state)
    with pytest.raises(ShardError, match=r"over 2 shards; now it is .* over 3 shards"):
        make_module(server, tmp_path, shuffle_shards=3).load_state_dict(state)
    with pytest.raises(ShardError, match=r"now it is with_replacement"):
        make_module(server, tmp_path, weights=[1] * 6).load_state_dict(state)


def test_with_replacement_draws_from_what_has_weight(server: FaultyServer, tmp_path: Path) -> None:
    module = make_module(server, tmp_path, weights=[0, 2, 0, 1, 0, 0], batch_size=4)
    names, bad = read(module)
    assert {name.split("/")[0] for name in names} == {"001.tar", "003.tar"} == requested(server)
    assert len(names) == 4 * TOTAL
    assert not bad


def test_statistics_say_how_many_samples_there_are(server: FaultyServer, tmp_path: Path) -> None:
    module = make_module(server, tmp_path, http=True)
    assert not requested(server)
    assert [shard.num_samples for shard in module.train_data.shards] == list(SIZES)
    server.requests.clear()
    make_module(server, tmp_path, http=True)
    assert not server.requests


def test_what_has_no_statistics_is_fetched_and_counted(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (server.folder / "001_stats.json").unlink()
    (server.folder / "003_stats.json").write_text("<html>")
    promise(server.folder, 4, None)
    server.faults["000_stats.json"] = [status(500)]
    server.faults["002_stats.json"] = [drop_after(3)]
    with caplog.at_level(logging.INFO):
        module = make_module(server, tmp_path, http=True)
    assert [shard.num_samples for shard in module.train_data.shards] == list(SIZES)
    assert requested(server) == {"001.tar", "003.tar", "004.tar"}
    assert "3 remote shards have no readable NNNNN_stats.json" in caplog.text
    assert "Counting took" in caplog.text


def test_what_cannot_be_counted_is_an_error_before_the_run(
    server: FaultyServer, tmp_path: Path
) -> None:
    (server.folder / "002_stats.json").unlink()
    server.always["002.tar"] = status(500)
    with pytest.raises(ShardError, match=r"(?s)1 of 1 remote shards cannot be counted.*002.tar"):
        make_module(server, tmp_path, http=True)


def test_a_dead_shard_is_bad_samples_and_no_one_elses_place_changes(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.always["002.tar"] = status(404)
    module = make_module(server, tmp_path, http=True, num_workers=2, max_steps=TOTAL // 2)
    module.require_readable()
    good, bad = read(module)
    dead = range(8, 15)
    assert good == planned(0, TOTAL, without=dead)
    assert len(bad) == len(dead)
    assert all(name.startswith("002.tar/sample ") for name in bad)
    assert all("002.tar is unavailable after attempt 1: " in name for name in bad)
    assert server.requests["002.tar"] == 1


@pytest.mark.slow
def test_a_shard_that_stalls_is_no_hang(server: FaultyServer, tmp_path: Path) -> None:
    server.always["002.tar"] = stall_after(3000)
    module = make_module(
        server, tmp_path, http=True, stall_seconds=3, num_workers=2, max_steps=TOTAL // 2
    )
    started_at = time.monotonic()
    good, bad = read(module)
    assert time.monotonic() - started_at < 240
    assert (len(good), len(bad)) == (TOTAL - 7, 7)


@pytest.mark.slow
def test_a_first_shard_that_is_dead_does_not_stop_a_run(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.always["000.tar"] = other(b"no tar")
    make_module(server, tmp_path, http=True).require_readable()


def test_fewer_samples_than_promised_are_bad_ones(server: FaultyServer, tmp_path: Path) -> None:
    write_shard(server.folder / "002.tar", image_samples(4, first=8))
    good, bad = read(make_module(server, tmp_path, max_steps=TOTAL // 2))
    assert good == planned(0, TOTAL, without=range(12, 15))
    assert sorted(bad) == [
        f"002.tar/sample {place}: it holds 4 samples, but 7 were counted before the download"
        for place in (4, 5, 6)
    ]


@pytest.mark.slow
def test_more_samples_than_promised_are_said(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promise(server.folder, 5, 3)
    write_shard(server.folder / "005.tar", image_samples(5, first=25))
    good, bad = read(make_module(server, tmp_path, http=True, max_steps=(TOTAL - 2) // 2))
    assert sorted(good) == sorted(planned(0, TOTAL, without=(28, 29)))
    assert not bad
    assert (
        "005.tar holds 5 samples, but 3 were counted before the download; the other 2 are"
        in caplog.text
    )


@pytest.fixture
def prefetchers(monkeypatch: pytest.MonkeyPatch) -> list[Prefetcher]:
    """The prefetchers that are made from now on."""
    made: list[Prefetcher] = []
    initialise = Prefetcher.__init__

    def remember(self: Prefetcher, *arguments: Any) -> None:
        initialise(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Prefetcher, "__init__", remember)
    return made


def wait_until_fetched(prefetchers: list[Prefetcher], num_shards: int) -> None:
    """Wait until all that was ordered is there and held, so that nothing more can come."""
    (prefetcher,) = prefetchers

    def all_there() -> bool:
        with prefetcher._changed:
            held = len(prefetcher._pins) + len(prefetcher._low_priority_pins)
            return not prefetcher._queue and held >= num_shards

    wait_until(all_there)


def test_only_this_window_and_the_next_are_fetched(
    server: FaultyServer, tmp_path: Path, prefetchers: list[Prefetcher]
) -> None:
    module = make_module(server, tmp_path)
    batches = iter(module.train_dataloader())
    next(batches)
    plan = WindowedShuffle(SIZES, 4, 2)
    first = plan.window(0)
    near = {
        f"{shard_of(draw.sample):03d}.tar"
        for draw in plan.sample_refs(0, plan.window(first.stop).stop)
    }
    assert len(near) == 4
    wait_until_fetched(prefetchers, 4)
    assert requested(server) == near


def test_the_shards_of_this_window_and_the_next_are_held(
    server: FaultyServer, tmp_path: Path, prefetchers: list[Prefetcher]
) -> None:
    module = make_module(server, tmp_path)
    batches = iter(module.train_dataloader())
    next(batches)
    kept = tmp_path / "kept"
    wait_until_fetched(prefetchers, 4)
    cache = DiskCache(kept, max_bytes=0)  # another run's, greedy for room
    with pytest.raises(CacheFullError):
        cache.make_room(urgent=False)
    assert len(list(kept.glob("*/*.tar"))) == 5  # and validation
    with pytest.raises(CacheFullError):
        cache.make_room()  # for what another run needs now
    assert len(list(kept.glob("*/*.tar"))) == 3  # the next window's are gone
    del batches
    module._pins.clear()
    cache.make_room()
    assert not list(kept.glob("*/*.tar"))


def test_a_rank_wants_the_shards_that_it_draws_from(server: FaultyServer, tmp_path: Path) -> None:
    module = make_module(server, tmp_path)
    plan = WindowedShuffle(SIZES, 4, 2)
    for position, ranks, batch_size in ((0, 4, 1), (7, 3, 2), (0, 1, 5)):
        for rank in range(ranks):
            window = plan.window(position + 2)
            batches = PlannedBatches(
                plan,
                position=position,
                num_batches=40,
                batch_size=batch_size,
                rank=rank,
                world_size=ranks,
            )
            stride = ranks * batch_size
            expected = dict.fromkeys(
                shard_of(draw.sample)
                for number, batch in enumerate(batches)
                for place, draw in enumerate(batch)
                if position + number * stride + rank * batch_size + place in window
            )
            prefetched = PrefetchedBatches(batches, module.train_data, lag=1)
            assert prefetched.shards_in(window) == list(expected)


def test_what_is_damaged_in_the_cache_is_bad_samples(server: FaultyServer, tmp_path: Path) -> None:
    module = make_module(server, tmp_path, max_steps=TOTAL // 2)
    store = ShardStore(tmp_path / "kept", 10**8, 1.5, 2)
    damaged = store.fetch(by_command(server, "002")).path
    damaged.write_bytes(bytes(damaged.stat().st_size))
    good, bad = read(module)
    assert good == planned(0, TOTAL, without=range(8, 15))
    assert len(bad) == 7
    assert "002.tar cannot be read: " in bad[0]


@pytest.mark.slow
def test_the_cache_stays_within_bounds_over_epochs(server: FaultyServer, tmp_path: Path) -> None:
    """The cache holds two windows and validation, so shards are evicted and downloaded again."""
    sizes = sorted((server.folder / f"{n:03d}.tar").stat().st_size for n in range(len(SIZES)))
    val = (server.folder / "val.tar").stat().st_size
    bound = sum(sizes[-4:]) + sizes[-1] + val
    module = make_module(server, tmp_path, max_bytes=bound, max_steps=3 * TOTAL // 2)
    most, good = 0, []
    for batch in module.train_dataloader():
        good += batch["name"]
        assert not batch["bad"]
        kept = list((tmp_path / "kept").glob("*/*.tar"))
        most = max(most, sum(path.stat().st_size for path in kept))
        assert any(path.name == "val.tar" for path in kept)
    assert good == planned(0, 3 * TOTAL)
    assert most <= bound
    assert fetches(server).total() > len(SIZES)


def test_a_cache_too_small_for_a_window_is_said(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "CACHE_FULL_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(prefetch, "CACHE_FULL_RETRY_SECONDS", 0.05)
    val = (server.folder / "val.tar").stat().st_size
    one = max((server.folder / f"{n:03d}.tar").stat().st_size for n in range(len(SIZES)))
    bound = val + one + 1000
    module = make_module(server, tmp_path, max_bytes=bound, batch_size=1, stall_seconds=3)
    with pytest.raises(ShardError, match=r"(?s)all in use.*raise data.cache_gb or lower"):
        read(module)


def test_a_dead_validation_shard_is_an_error_before_the_run(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.always["val.tar"] = status(404)
    with pytest.raises(ShardError, match=r"(?s)val.tar is unavailable.*data.val_shards"):
        make_module(server, tmp_path, http=True)


def test_machines_that_count_otherwise_do_not_train(server: FaultyServer, tmp_path: Path) -> None:
    module = make_module(server, tmp_path, first="another fingerprint")
    with pytest.raises(ShardError, match=r"do not agree on what the shards hold"):
        module.train_dataloader()


def test_shards_here_and_elsewhere_mix(server: FaultyServer, tmp_path: Path) -> None:
    shards: list[Any] = [by_command(server, f"{number:03d}") for number in range(len(SIZES))]
    for number in (0, 3):
        shards[number] = server.folder / f"{number:03d}.tar"
    assert read(make_module(server, tmp_path, shards=shards))[0] == planned(0, 2 * TOTAL)
    assert requested(server) == {f"{number:03d}.tar" for number in (1, 2, 4, 5)}


def test_a_command_has_statistics_where_its_shard_is_plain_to_see(
    server: FaultyServer, tmp_path: Path
) -> None:
    shards = [f"pipe:cat {server.folder}/{number:03d}.tar" for number in range(len(SIZES))]
    promise(server.folder, 1, 2)  # so that this shows where numbers are from
    module = make_module(server, tmp_path, shards=shards)
    assert [shard.num_samples for shard in module.train_data.shards] == [5, 2, 7, 4, 6, 5]


@pytest.mark.parametrize(
    ("address", "stats"),
    [
        ("https://host/a/00000.tar", "https://host/a/00000_stats.json"),
        ("https://host/00000.tar?key=1.tar", "https://host/00000_stats.json?key=1.tar"),
        ("s3://bucket/a.tar.d/1.tar", "s3://bucket/a.tar.d/1_stats.json"),
        ("https://host/download?id=7", None),
        ("pipe:curl -s https://host/7.tar", "pipe:curl -s https://host/7_stats.json"),
        ("pipe:cat 7.tar | tee 7.tar", None),
        ("pipe:mycommand 7", None),
    ],
)
def test_where_statistics_are(address: str, stats: str | None) -> None:
    assert stats_address(address) == stats
