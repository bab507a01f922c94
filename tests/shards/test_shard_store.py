import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import image_samples, write_shard
from faulty_server import (
    Fault,
    FaultyServer,
    busy,
    drop_after,
    other,
    slowly,
    stall_after,
    stall_before_headers,
    status,
    trickle,
    well,
    with_ranges,
)

from vqgan_train.shards.index import index_shard
from vqgan_train.shards.remote import fetch_url, marks, retries
from vqgan_train.shards.remote import store as shard_store
from vqgan_train.shards.remote.disk_cache import (
    LOW_PRIORITY_FILE,
    CacheFullError,
    CachePin,
    DiskCache,
    pin_low_priority,
)
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import DeadShardError, UnavailableShardError

STALL_SECONDS = 3
"""Longer than a process takes to start on a busy machine."""

SHARD_BYTES_AT_MOST = 40_000


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    for number in range(6):
        samples = image_samples(7, first=10 * number)
        write_shard(tmp_path / "served" / f"{number:03d}.tar", samples)
    with FaultyServer(tmp_path / "served") as served:
        yield served


def make_store(tmp_path: Path, *, max_bytes: int = 10**8, attempts: int = 3) -> ShardStore:
    return ShardStore(tmp_path / "kept", max_bytes, STALL_SECONDS, attempts)


def keys(store: ShardStore, address: str) -> list[str]:
    index = store.fetch(address)
    return [index.read(place)["__key__"] for place in range(index.num_samples)]


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "kept").rglob("*.partial")]


FIRST_KEYS = [f"{number:06d}" for number in range(7)]


def test_a_shard_comes_whole_and_once(server: FaultyServer, tmp_path: Path) -> None:
    address = f"{server.url}/000.tar"
    store = make_store(tmp_path)
    assert keys(store, address) == FIRST_KEYS
    assert keys(make_store(tmp_path), address) == FIRST_KEYS
    assert server.requests["000.tar"] == 1
    here, there = store.fetch(address).path, server.folder / "000.tar"
    assert here.name == "000.tar"
    assert here.read_bytes() == there.read_bytes()
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(status(500), id="500"),
        pytest.param(status(429), id="429"),
        pytest.param(drop_after(0), id="drop at once"),
        pytest.param(drop_after(9000), id="drop"),
        pytest.param(drop_after(9000, with_length=False), id="cut without a length"),
        pytest.param(stall_before_headers, id="stall at once"),
        pytest.param(stall_after(9000), id="stall", marks=pytest.mark.slow),
        pytest.param(trickle, id="trickle", marks=pytest.mark.slow),
        pytest.param(other(b"<html>busy</html>" * 100), id="another page"),
        pytest.param(other(b""), id="nothing"),
    ],
)
def test_what_fails_once_is_fetched_again(
    fault: Fault, server: FaultyServer, tmp_path: Path
) -> None:
    server.faults["000.tar"] = [fault]
    started_at = time.monotonic()
    assert keys(make_store(tmp_path), f"{server.url}/000.tar") == FIRST_KEYS
    assert server.requests["000.tar"] == 2
    assert time.monotonic() - started_at < 60
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(status(500), "attempt 2: .*500", id="500"),
        pytest.param(stall_after(9000), "attempt 2: stalled", id="stall", marks=pytest.mark.slow),
        pytest.param(drop_after(9000), "attempt 2: .*not completed", id="drop"),
    ],
)
def test_a_dead_source_is_said_once_and_not_asked_again(
    fault: Fault,
    said: str,
    server: FaultyServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.always["000.tar"] = fault
    address = f"{server.url}/000.tar"
    for _ in range(3):  # other ranks and workers, too
        with pytest.raises(DeadShardError, match=rf"/000.tar is unavailable after {said}"):
            make_store(tmp_path, attempts=2).fetch(address)
    assert server.requests["000.tar"] == 2
    assert [record.getMessage()[:11] for record in caplog.records] == ["DEAD SHARD:"]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_is_final_is_asked_once(code: int, server: FaultyServer, tmp_path: Path) -> None:
    server.always["000.tar"] = status(code)
    store = ShardStore(tmp_path / "kept", 10**8, STALL_SECONDS, 4, patience_seconds=600)
    for _ in range(2):
        with pytest.raises(DeadShardError, match="after attempt 1: ") as raised:
            store.fetch(f"{server.url}/000.tar")
        assert not isinstance(raised.value, UnavailableShardError)
    assert server.requests["000.tar"] == 1


class FakedTime:
    """A clock that pauses move on, and the event that a download waits on for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
        for module in (retries, shard_store):
            monkeypatch.setattr(module, "time", clock)
        for limit in ("FIRST_PAUSE_SECONDS", "MAX_PAUSE_SECONDS"):
            monkeypatch.setattr(retries, limit, 60.0)
        self.event: Any = SimpleNamespace(is_set=lambda: False, wait=self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def away_for(self, seconds: float, answer: Fault) -> Fault:
        """A server that answers wrongly for a time, then well."""
        return lambda handler, body: (well if self.now >= 1000 + seconds else answer)(handler, body)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(status(503), id="503"),
        pytest.param(drop_after(0), id="drop", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_is_away_for_three_minutes_is_waited_for(
    answer: Fault, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakedTime(monkeypatch)
    server.always["000.tar"] = clock.away_for(180, answer)
    store = ShardStore(tmp_path / "kept", 10**8, STALL_SECONDS, 4, patience_seconds=600)
    store.fetch(f"{server.url}/000.tar", clock.event)
    assert 180 <= clock.now - 1000 < 240
    assert server.requests["000.tar"] >= 4


def test_an_outage_is_waited_for_once_and_not_for_each_shard(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakedTime(monkeypatch)
    store = ShardStore(tmp_path / "kept", 10**8, STALL_SECONDS, 1, patience_seconds=100)
    for number, least, most in ((0, 40, 100), (1, 40, 100)):
        server.always[f"{number:03d}.tar"] = status(503)
        with pytest.raises(UnavailableShardError, match="503"):
            store.fetch(f"{server.url}/{number:03d}.tar", clock.event)
        assert least <= clock.now - 1000 <= most
    store.fetch(f"{server.url}/002.tar", clock.event)  # the server works
    server.always["003.tar"] = status(503)
    since = clock.now
    with pytest.raises(UnavailableShardError):
        store.fetch(f"{server.url}/003.tar", clock.event)
    assert clock.now - since >= 40


def test_a_server_that_says_when_to_come_again_is_obeyed(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakedTime(monkeypatch)
    store = ShardStore(tmp_path / "kept", 10**8, STALL_SECONDS, 4, patience_seconds=600)
    server.faults["000.tar"] = [busy(429, Retry_After="120")]
    store.fetch(f"{server.url}/000.tar", clock.event)
    assert server.requests["000.tar"] == 2
    assert 120 <= clock.now - 1000 <= 180
    server.faults["001.tar"] = [busy(403, Retry_After="6000")]
    with pytest.raises(UnavailableShardError, match=r"attempt 1: .*403"):
        store.fetch(f"{server.url}/001.tar", clock.event)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [("12", 12), ("Wed, 21 Oct 2065 07:28:00 GMT", 1e8), ("soon", 0), ("", 0)],
)
def test_the_time_to_come_again_is_a_number_or_a_date(answer: str, seconds: float) -> None:
    error: Any = SimpleNamespace(headers={"Retry-After": answer})
    assert fetch_url.retry_after(error) >= seconds
    assert seconds > 0 or fetch_url.retry_after(error) == 0


def test_a_download_goes_on_where_it_broke_off(server: FaultyServer, tmp_path: Path) -> None:
    size = (server.folder / "000.tar").stat().st_size
    server.always["000.tar"] = with_ranges('"one"', at_most=size * 4 // 5)
    store = make_store(tmp_path)
    assert keys(store, f"{server.url}/000.tar") == FIRST_KEYS
    assert server.requests["000.tar"] == 2
    assert server.bytes_sent["000.tar"] == size  # not a byte twice
    assert (
        store.fetch(f"{server.url}/000.tar").path.read_bytes()
        == (server.folder / "000.tar").read_bytes()
    )
    assert not list(tmp_path.rglob("*.source"))


def test_a_file_that_changed_meanwhile_is_not_joined(server: FaultyServer, tmp_path: Path) -> None:
    old, new = (server.folder / name for name in ("000.tar", "001.tar"))
    server.faults["000.tar"] = [
        lambda handler, _: with_ranges('"one"', at_most=9000)(handler, old_bytes),
        busy(503),
    ]
    old_bytes = old.read_bytes()
    old.write_bytes(new.read_bytes())
    server.always["000.tar"] = with_ranges('"two"')
    store = make_store(tmp_path)
    assert store.fetch(f"{server.url}/000.tar").path.read_bytes() == new.read_bytes()
    assert server.requests["000.tar"] == 3


@pytest.mark.parametrize("code", [403, 404])
def test_what_is_secret_in_an_address_is_not_said(
    code: int, server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.always["000.tar?sig=SECRET"] = server.always["000.tar"] = status(code)
    with pytest.raises(DeadShardError, match=r"000\.tar") as raised:
        make_store(tmp_path, attempts=1).fetch(f"{server.url}/000.tar?sig=SECRET")
    said = str(raised.value) + caplog.text
    assert "SECRET" not in said
    kept = [path.read_text() for path in tmp_path.rglob("dead")]
    assert kept
    assert "SECRET" not in "".join(kept)


def test_a_dead_source_is_asked_again_after_minutes(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["000.tar"] = [status(503)]
    address = f"{server.url}/000.tar"
    store = make_store(tmp_path, attempts=1)
    with pytest.raises(DeadShardError):
        store.fetch(address)
    long_ago = time.time() - marks.DEAD_SECONDS - 1
    os.utime(store.entry_folder(address) / "away", (long_ago, long_ago))
    assert keys(store, address) == FIRST_KEYS


def test_a_shard_that_is_cut_at_its_source_gives_its_whole_samples(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = server.folder / "000.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    expected = index_shard(shard)
    store = make_store(tmp_path, attempts=4)
    assert keys(store, f"{server.url}/000.tar") == FIRST_KEYS[: expected.num_samples]
    assert server.requests["000.tar"] == 2  # the second time it was cut at the same byte
    assert "damaged (unexpected end of data)" in caplog.text


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "exit code 1"),
        ("cat {shard}; echo no such bucket >&2; exit 3", "exit code 3: no such bucket"),
        ("echo hello", "holds no sample with an image"),
        ("head -c 9000 /dev/urandom", "holds no sample"),
        pytest.param("sleep 60", "stalled", marks=pytest.mark.slow),
        pytest.param("head -c 9000 {shard}; sleep 60", "stalled", marks=pytest.mark.slow),
        ("sleep 60 | sleep 60", "stalled"),
        ("nosuchcommand", "exit code 127: .*not found"),
    ],
)
def test_commands_that_fail_are_dead_and_leave_no_process(
    command: str, said: str, server: FaultyServer, tmp_path: Path
) -> None:
    command = command.format(shard=server.folder / "000.tar")
    store = make_store(tmp_path, attempts=1)
    with pytest.raises(DeadShardError, match=said):
        store.fetch(f"pipe:{command}")
    give_up_at = time.monotonic() + 60
    while children_of_tests("sleep"):  # what was killed takes a moment to be gone
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def children_of_tests(name: str) -> list[str]:
    """List command lines of processes that this test started, found by their environment."""
    found = []
    mark = f"PYTEST_CURRENT_TEST={os.environ['PYTEST_CURRENT_TEST']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if command.startswith(name.encode()) and mark in (process / "environ").read_bytes():
                found.append(command.decode())
        except OSError:
            continue
    return found


def test_a_command_may_write_a_shard(server: FaultyServer, tmp_path: Path) -> None:
    command = f"pipe:cat {server.folder}/000.tar 2>/dev/null | cat"
    store = make_store(tmp_path)
    assert keys(store, command) == FIRST_KEYS
    assert store.fetch(command).path.name == "000.tar"


def test_a_command_without_end_is_stopped_by_the_size_of_the_cache(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=10**6)
    with pytest.raises(DeadShardError, match=r"attempt 1: .*larger than half of cache_gb"):
        store.fetch("pipe:while true; do head -c 400000 /dev/zero; sleep 0.5; done")
    assert not left_behind(tmp_path)


def test_fsspec_opens_what_it_knows(server: FaultyServer, tmp_path: Path) -> None:
    assert keys(make_store(tmp_path), f"file://{server.folder}/000.tar") == FIRST_KEYS
    with pytest.raises(DeadShardError, match="nosuchscheme"):
        make_store(tmp_path, attempts=1).fetch("nosuchscheme://host/000.tar")


@pytest.mark.slow
def test_ranks_of_a_machine_share_one_download(server: FaultyServer, tmp_path: Path) -> None:
    write_shard(server.folder / "000.tar", image_samples(40))
    server.always["000.tar"] = slowly
    found: list[list[str]] = []
    stores = [make_store(tmp_path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda s=store: found.append(keys(s, f"{server.url}/000.tar")))
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(names) for names in found] == [40] * 4
    assert server.requests["000.tar"] == 1


def test_the_shard_that_was_not_used_for_longest_goes(server: FaultyServer, tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=3 * SHARD_BYTES_AT_MOST)
    addresses = [f"{server.url}/{number:03d}.tar" for number in range(6)]
    for age, address in enumerate(addresses[:3]):
        path = store.fetch(address).path
        os.utime(path, (1000 - 100 * age,) * 2)  # the third was used before the first
        assert path.stat().st_size < SHARD_BYTES_AT_MOST
    store.cache.max_bytes = sum(store.fetch(a).path.stat().st_size for a in addresses[:3])
    for age, address in enumerate(addresses[:3]):
        os.utime(store.fetch(address).path, (1000 - 100 * age,) * 2)
    store.fetch(addresses[3])
    there = sorted(path.name for path in (tmp_path / "kept").glob("*/*.tar"))
    assert len(there) <= 3
    assert "003.tar" in there
    assert "002.tar" not in there
    assert "000.tar" in there


def test_a_shard_in_use_never_goes(server: FaultyServer, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    addresses = [f"{server.url}/{number:03d}.tar" for number in range(6)]
    held = store.fetch(addresses[0])
    os.utime(held.path, (1, 1))
    others = [store.fetch(address) for address in addresses[1:3]]
    store.cache.max_bytes = held.num_bytes + 1000
    with CachePin(held.path):
        store.cache.make_room()
        assert held.path.exists()
        assert not any(index.path.exists() for index in others)
        store.cache.max_bytes = 1000
        with pytest.raises(CacheFullError, match=r"(?s)all in use.*Raise cache_gb"):
            store.cache.make_room()
    store.cache.make_room()
    assert not held.path.exists()


def test_a_forked_process_that_has_the_descriptors_keeps_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader process may be forked at any moment, and keeps its copies for the whole run."""
    original, copies = os.open, []

    def open_twice(*args: Any) -> int:
        descriptor = original(*args)
        copies.append(os.dup(descriptor))
        return descriptor

    cache = DiskCache(tmp_path / "kept", max_bytes=0)
    shard = tmp_path / "kept" / "one" / "000.tar"
    shard.parent.mkdir()
    shard.write_bytes(b"shard")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_twice)
        CachePin(shard).release()
        hold = pin_low_priority(shard)
        with pytest.raises(CacheFullError):
            cache.make_room(urgent=False)
        hold.release()
        with CachePin(shard), pytest.raises(CacheFullError):
            cache.make_room(urgent=False)
    for path in (shard, shard.with_name(LOW_PRIORITY_FILE)):
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    for copy in copies:
        os.close(copy)


def test_what_went_from_the_cache_is_fetched_again(server: FaultyServer, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.fetch(f"{server.url}/000.tar").path.unlink()
    assert keys(store, f"{server.url}/000.tar") == FIRST_KEYS
    assert server.requests["000.tar"] == 2


def test_an_unreadable_index_is_made_again(server: FaultyServer, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = store.fetch(f"{server.url}/000.tar").path
    (path.parent / "index.npz").write_bytes(b"broken")
    assert keys(make_store(tmp_path), f"{server.url}/000.tar") == FIRST_KEYS
    assert server.requests["000.tar"] == 1
