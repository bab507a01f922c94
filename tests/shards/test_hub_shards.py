"""Download hf:// shards with the hub's own client from a local hub."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from factories import image_samples, write_shard

from vqgan_train.shards.remote.counts import count_samples
from vqgan_train.shards.remote.store import ShardStore
from vqgan_train.system.errors import DeadShardError

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves one data set with some files."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/datasets/user/photos/resolve/main/"):
            self.answer(self.files.get(path.rpartition("/")[2]), ETag=f'"{COMMIT}"')
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                for name, content in self.files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/datasets/user/photos"):
            names = [{"rfilename": name} for name in self.files]
            self.answer(
                json.dumps({"id": "user/photos", "sha": COMMIT, "siblings": names}).encode()
            )
        else:
            self.answer(None)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, body: bytes | None, **headers: str) -> None:
        self.send_response(404 if body is None else 200)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    files: dict[str, bytes] = {}
    handler = type("OneHub", (Hub,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield files
        server.shutdown()


def test_shards_come_from_a_hub(hub_files: dict[str, bytes], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "000.tar", image_samples(7)).read_bytes()
    hub_files |= {"000.tar": shard, "000_stats.json": b'{"successes": 7}'}
    store = ShardStore(tmp_path / "kept", 10**8, stall_seconds=20, attempts=1)
    address = "hf://datasets/user/photos/000.tar"
    assert count_samples([address], store) == [7]
    index = store.fetch(address)
    assert index.path.read_bytes() == shard
    assert index.num_samples == 7
    with pytest.raises(DeadShardError, match=r"001.tar is unavailable after attempt 1: "):
        store.fetch("hf://datasets/user/photos/001.tar")
