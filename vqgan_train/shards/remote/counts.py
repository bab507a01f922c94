"""How many samples remote shards hold: positions in the plan rest on it before the first step.

img2dataset writes NNNNN_stats.json beside each shard, whose `successes` is the number. Where there
is none, the shard is fetched once and indexed. Either number is kept with the cache from then on,
so that a run that is resumed rests on the same.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from tqdm import tqdm

from vqgan_train.shards.index import MANY_SHARDS
from vqgan_train.shards.naming import PIPE
from vqgan_train.shards.remote.store import ShardStore, pause_seconds, shown
from vqgan_train.shards.remote.transfer import TransferError, fetch_small_files
from vqgan_train.system.errors import DeadShardError, ShardError
from vqgan_train.system.files import write_atomically

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 4
STATS_AT_ONCE = 256
"""To one process; so often does the bar move."""

COUNT_FILE = "count.json"

ENOUGH_DEAD = 8
"""Shards that cannot be had, before the others are not asked: a wrong bucket has thousands."""


def count_samples(addresses: Sequence[str], store: ShardStore) -> list[int]:
    """Find out how many samples each shard holds, in one process of the machine for all.

    Raises:
        ShardError: of some shards it cannot be found out.
    """
    with FileLock(store.cache.folder / "counts.lock"):
        unknown = [address for address in addresses if _known(address, store) is None]
        if unknown:
            _ask_stats(unknown, store)
        unknown = [address for address in unknown if _known(address, store) is None]
        if unknown:
            _fetch_and_count(unknown, store)
    counts = [_known(address, store) for address in addresses]
    assert None not in counts, "what cannot be counted is an error"
    return [count for count in counts if count is not None]


def stats_address(address: str) -> str | None:
    """Where img2dataset's statistics of a shard are; None where its name is not plain to see."""
    if address.startswith(PIPE):
        once = address.count(".tar") == 1
        return address.replace(".tar", "_stats.json") if once else None
    path, mark, query = address.partition("?")
    return f"{path.removesuffix('.tar')}_stats.json{mark}{query}" if path.endswith(".tar") else None


def _known(address: str, store: ShardStore) -> int | None:
    try:
        return int(json.loads((store.place(address) / COUNT_FILE).read_text())["samples"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _keep(address: str, store: ShardStore, samples: int, source: str) -> None:
    with write_atomically(store.place(address) / COUNT_FILE) as file:
        what = {"address": shown(address), "samples": samples, "source": source}
        file.write(json.dumps(what).encode())


def _ask_stats(addresses: Sequence[str], store: ShardStore) -> None:
    """Keep the numbers of those shards that have statistics."""
    asked = {address: stats for address in addresses if (stats := stats_address(address))}
    with (
        tqdm(
            total=len(asked),
            desc="reading NNNNN_stats.json",
            unit="shard",
            disable=len(asked) < MANY_SHARDS,
        ) as bar,
        TemporaryDirectory(dir=store.cache.folder, prefix="stats-") as folder,
    ):
        names = list(asked)
        for first in range(0, len(names), STATS_AT_ONCE):
            some = {name: asked[name] for name in names[first : first + STATS_AT_ONCE]}
            for address, file in _fetch_stats(some, Path(folder), store):
                successes = _read_successes(file)
                if successes is not None:
                    _keep(address, store, successes, "stats")
            bar.update(len(some))


def _fetch_stats(
    asked: dict[str, str], folder: Path, store: ShardStore
) -> Iterable[tuple[str, Path]]:
    """Fetch the statistics of some shards, those again that failed; which file is whose."""
    files = {address: folder / f"{number}.json" for number, address in enumerate(asked)}
    left = dict(asked)
    for attempt in range(store.attempts):
        if attempt:
            time.sleep(pause_seconds(attempt))
        for address in left:
            files[address].unlink(missing_ok=True)
        pairs = [(stats, files[address]) for address, stats in left.items()]
        try:
            failures = fetch_small_files(pairs, store.stall_seconds)
        except TransferError as error:
            log.warning("NNNNN_stats.json of %d shards did not come: %s", len(left), error)
            continue
        # A command cannot say that there is no such file: whatever it says is taken for that. Nor
        # does S3 to who may not list the bucket.
        again = {
            failure["address"]
            for failure in failures
            if not (failure["absent"] or failure["refused"] or failure["address"].startswith(PIPE))
        }
        failed = {failure["address"] for failure in failures}
        yield from ((a, files[a]) for a, stats in left.items() if stats not in failed)
        left = {address: stats for address, stats in left.items() if stats in again}
        if not left:
            return


def _read_successes(file: Path) -> int | None:
    try:
        successes = json.loads(file.read_bytes())["successes"]
        return int(successes) if successes >= 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch_and_count(addresses: Sequence[str], store: ShardStore) -> None:
    """Fetch shards that have no statistics, once.

    Raises:
        ShardError: some cannot be had.
    """
    log.info(
        "%d remote shards have no NNNNN_stats.json beside them, for example %s. Each is fetched "
        "once now to count its samples; the numbers are kept in %s.",
        len(addresses),
        shown(addresses[0]),
        store.cache.folder,
    )
    started_at = time.monotonic()
    num_bytes, dead, given_up = 0, [], threading.Event()

    def fetch(address: str) -> int | DeadShardError:
        if given_up.is_set():
            return 0
        try:
            index = store.fetch(address)
        except DeadShardError as error:
            return error
        _keep(address, store, index.num_samples, "shard")
        return index.num_bytes

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        fetched = pool.map(fetch, addresses)
        for result in tqdm(fetched, "counting samples", len(addresses), unit="shard"):
            if isinstance(result, DeadShardError):
                dead.append(result)
                if len(dead) == ENOUGH_DEAD:
                    given_up.set()
            else:
                num_bytes += result
    seconds = time.monotonic() - started_at
    log.info("Counting took %.0f s, %.3g GB.", seconds, num_bytes / 1e9)
    if dead:
        more = ", and others were not asked any more" if given_up.is_set() else ""
        advice = (
            "Check the address, and that this machine reaches it."
            if given_up.is_set() or len(dead) == len(addresses) > 1
            else "Leave them out of the list, or put a NNNNN_stats.json with their `successes` "
            "beside them."
        )
        raise ShardError(
            f"The samples of {len(dead)} of {len(addresses)} remote shards cannot be counted "
            f"(so the order has no place for them){more}. The first: {str(dead[0]).rstrip('.')}. "
            f"{advice}"
        )
