"""Download gs:// shards with gcsfs from a local emulator of Google's storage."""

import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import image_samples, write_shard
from gcp_storage_emulator.server import create_server

from vqgan_train.shards.remote.counts import count_samples
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import DeadShardError

BUCKET = "photos"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        address = f"http://127.0.0.1:{server._api._httpd.server_port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
        # Else gcsfs asks over gRPC what kind of bucket it is, which the emulator does not speak.
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield address
    finally:
        server.stop()


def upload(url: str, name: str, content: bytes) -> None:
    address = f"{url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
    kind = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(address, content, kind)) as answer:
        answer.read()


def test_shards_come_from_googles_storage(url: str, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "000.tar", image_samples(7)).read_bytes()
    upload(url, "000.tar", shard)
    upload(url, "000_stats.json", b'{"successes": 7}')
    store = ShardStore(tmp_path / "kept", 10**8, stall_seconds=30, attempts=1)
    address = f"gs://{BUCKET}/000.tar"
    assert count_samples([address], store) == [7]
    assert store.fetch(address).path.read_bytes() == shard
    with pytest.raises(
        DeadShardError, match=r"gs://photos/001.tar is unavailable after attempt 1: "
    ):
        store.fetch(f"gs://{BUCKET}/001.tar")
