"""Count the samples of remote shards, because positions in the sample order depend on the counts.

img2dataset writes NNNNN_stats.json beside each shard; its field `successes` is the number of
samples. A shard without that file is downloaded once and indexed. The cache stores each count, so
that a resumed run uses the same counts.
"""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from vqgan_train.shards.index import BAR_DELAY_SECONDS
from vqgan_train.shards.remote.store import PARALLEL_DOWNLOADS, ShardStore
from vqgan_train.shards.remote.transfer import TransferError, fetch_small_files
from vqgan_train.system.addresses import PIPE, redact
from vqgan_train.system.errors import DeadShardError, ShardError, UnavailableShardError
from vqgan_train.system.files import fingerprint, write_atomically
from vqgan_train.system.locks import file_lock

log = logging.getLogger(__name__)

STATS_PER_PROCESS = 256
"""Number of NNNNN_stats.json per downloading process, and per step of the progress bar."""

COUNT_FILE = "count.json"

MAX_DEAD_SHARDS = 8
"""Number of dead shards after which counting stops; with a wrong bucket name, all are dead."""


def count_samples(addresses: Sequence[str], store: ShardStore) -> list[int]:
    """Count the samples of each shard; the processes of a machine share the counts in the cache.

    Raises:
        ShardError: some shards cannot be counted.
    """
    if any(_read_count(address, store) is None for address in addresses):
        lock = store.cache.folder / f"counts-{fingerprint(addresses)}.lock"
        with file_lock(lock, "counting the samples of remote shards"):
            for count in (_count_from_stats, _download_and_count):
                uncounted = [a for a in addresses if _read_count(a, store) is None]
                if uncounted:
                    count(uncounted, store)
    counts = [_read_count(address, store) for address in addresses]
    assert None not in counts, "_download_and_count raises for shards that it cannot count"
    return [number for number in counts if number is not None]


def stats_address(address: str) -> str | None:
    """Return the address of a shard's _stats.json; None if it is unclear which .tar to replace."""
    if address.startswith(PIPE):
        is_unique = address.count(".tar") == 1
        return address.replace(".tar", "_stats.json") if is_unique else None
    path, mark, query = address.partition("?")
    return f"{path.removesuffix('.tar')}_stats.json{mark}{query}" if path.endswith(".tar") else None


def _read_count(address: str, store: ShardStore) -> int | None:
    try:
        return int(json.loads((store.entry_folder(address) / COUNT_FILE).read_text())["samples"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_count(address: str, store: ShardStore, samples: int, source: str) -> None:
    content = {"address": redact(address), "samples": samples, "source": source}
    with write_atomically(store.entry_folder(address) / COUNT_FILE) as file:
        file.write(json.dumps(content).encode())


def _count_from_stats(addresses: Sequence[str], store: ShardStore) -> None:
    """Store the counts of those shards that have a readable NNNNN_stats.json."""
    requests = [(address, stats) for address in addresses if (stats := stats_address(address))]
    with (
        tqdm(
            desc="reading NNNNN_stats.json",
            total=len(requests),
            unit="shard",
            delay=BAR_DELAY_SECONDS,
        ) as bar,
        TemporaryDirectory(dir=store.cache.folder, prefix="stats-") as folder,
    ):
        for first in range(0, len(requests), STATS_PER_PROCESS):
            some = dict(requests[first : first + STATS_PER_PROCESS])
            for address, file in _download_stats(some, Path(folder), store):
                successes = _read_successes(file)
                if successes is not None:
                    _write_count(address, store, successes, "stats")
            bar.update(len(some))


def _download_stats(
    stats_addresses: dict[str, str], folder: Path, store: ShardStore
) -> Iterable[tuple[str, Path]]:
    """Download NNNNN_stats.json with retries; yield (shard's address, file) of those that arrived.

    Args:
        stats_addresses: address of each NNNNN_stats.json, by its shard's address.
        folder: folder for the files.
        store: says how many attempts are made, and after which time one has stalled.
    """
    files = {address: folder / f"{number}.json" for number, address in enumerate(stats_addresses)}
    remaining, retries, pause = stats_addresses, store.retries(), 0.0
    while pause >= 0:
        time.sleep(pause)
        for address in remaining:
            files[address].unlink(missing_ok=True)
        pairs = [(stats, files[address]) for address, stats in remaining.items()]
        try:
            failures = fetch_small_files(pairs, store.stall_seconds)
        except TransferError as error:
            log.warning("NNNNN_stats.json of %d shards did not arrive: %s", len(remaining), error)
            pause = retries.next_pause()
            continue
        # Missing files are not retried. A command cannot say that a file is missing, and S3 refuses
        # instead if listing the bucket is not allowed, so these failures count as missing files.
        retryable = {
            failure["address"]
            for failure in failures
            if not (failure["absent"] or failure["refused"] or failure["address"].startswith(PIPE))
        }
        failed = {failure["address"] for failure in failures}
        yield from ((a, files[a]) for a, stats in remaining.items() if stats not in failed)
        remaining = {address: stats for address, stats in remaining.items() if stats in retryable}
        if not remaining:
            return
        pause = retries.next_pause(max(failure["retry_after"] for failure in failures))


def _read_successes(file: Path) -> int | None:
    try:
        successes = json.loads(file.read_bytes())["successes"]
        return int(successes) if successes >= 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _download_and_count(addresses: Sequence[str], store: ShardStore) -> None:
    """Download shards without NNNNN_stats.json once, and store their counts.

    Raises:
        ShardError: some shards are unavailable.
    """
    log.info(
        "%d remote shards have no readable NNNNN_stats.json beside them, for example %s. Each is "
        "downloaded once now to count its samples; the counts are kept in %s.",
        len(addresses),
        redact(addresses[0]),
        store.cache.folder,
    )
    started_at = time.monotonic()
    num_bytes, dead = 0, []

    def download(address: str) -> int | DeadShardError:
        try:
            index = store.fetch(address)
        except DeadShardError as error:
            return error
        _write_count(address, store, index.num_samples, "shard")
        return index.num_bytes

    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        results = pool.map(download, addresses)
        for result in tqdm(results, "counting samples", len(addresses), unit="shard"):
            if isinstance(result, DeadShardError):
                dead.append(result)
                if len(dead) == MAX_DEAD_SHARDS:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
            else:
                num_bytes += result
    seconds = time.monotonic() - started_at
    log.info("Counting took %.0f s; the counted shards hold %.3g GB.", seconds, num_bytes / 1e9)
    if dead:
        rest = "; counting stopped early" if len(dead) == MAX_DEAD_SHARDS else ""
        is_away = all(isinstance(error, UnavailableShardError) for error in dead)
        raise (UnavailableShardError if is_away else ShardError)(
            f"The samples of {len(dead)} of {len(addresses)} remote shards cannot be counted, so "
            f"the sample order is unknown{rest}. The first: {str(dead[0]).rstrip('.')}. Check the "
            "address, and that this machine reaches it. If the address is right, leave the shards "
            "out of the list, or put a NNNNN_stats.json with their `successes` beside them."
        )
