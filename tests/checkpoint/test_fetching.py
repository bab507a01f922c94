"""Fetching from URLs, hubs and artifacts of local servers: complete, verified, cached."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from factories import tiny_vqgan

from vqgan_train.checkpoint.fetching import artifact_name, fetch_checkpoint
from vqgan_train.system.errors import CheckpointError

PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> bytes:
    torch.save({"state_dict": tiny_vqgan().state_dict()}, tmp_path / "last.ckpt")
    return (tmp_path / "last.ckpt").read_bytes()


@contextmanager
def server(
    answers: dict[str, tuple[int, bytes]],
    *,
    promised: int | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """Serve bodies by path; announce `promised` bytes instead of their length if given."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, body = answers.get(self.path, (404, b"not here"))
            self.send_response(status)
            self.send_header("Content-Length", str(promised or len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(answers.get(self.path, (404, b"not here"))[1])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a=1.ckpt").touch()
    assert fetch_checkpoint(f"{tmp_path}/a=1.ckpt", "model.init_from") == tmp_path / "a=1.ckpt"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch_checkpoint("~/a=1.ckpt", "model.init_from") == tmp_path / "a=1.ckpt"


def test_a_url_is_downloaded_once_and_then_needs_no_server(checkpoint: bytes) -> None:
    with server({"/f/last.ckpt?dl=1": (200, checkpoint)}) as address:
        source = f"{address}/f/last.ckpt?dl=1"
        first = fetch_checkpoint(source, "model.init_from")
    assert first.read_bytes() == checkpoint
    assert fetch_checkpoint(source, "model.init_from") == first


def test_a_hash_in_the_url_is_checked(checkpoint: bytes) -> None:
    right = hashlib.sha256(checkpoint).hexdigest()
    with server({"/last.ckpt": (200, checkpoint)}) as address:
        source = f"{address}/last.ckpt#sha256={right}"
        assert fetch_checkpoint(source, "model.init_from").read_bytes() == checkpoint
        wrong = f"{address}/last.ckpt#sha256={'0' * 64}"
        with pytest.raises(CheckpointError, match=r"(?s)model.init_from=.*hash"):
            fetch_checkpoint(wrong, "model.init_from")


@pytest.mark.parametrize(
    ("status", "message"), [(404, "404 Client Error"), (500, "500 Server Error")]
)
def test_what_a_server_refuses_is_said(status: int, message: str) -> None:
    with (
        server({"/last.ckpt": (status, b"")}) as address,
        pytest.raises(CheckpointError, match=rf"run.parent={address}/last.ckpt .*{message}"),
    ):
        fetch_checkpoint(f"{address}/last.ckpt", "run.parent")


def test_no_server_at_all_is_said() -> None:
    with server({}) as address:
        pass
    with pytest.raises(CheckpointError, match="could not be fetched"):
        fetch_checkpoint(f"{address}/last.ckpt", "model.init_from")


def test_a_download_that_breaks_off_leaves_nothing(checkpoint: bytes, tmp_path: Path) -> None:
    with (
        server({"/last.ckpt": (200, checkpoint)}, promised=2 * len(checkpoint)) as address,
        pytest.raises(CheckpointError, match="could not be fetched"),
    ):
        fetch_checkpoint(f"{address}/last.ckpt", "model.init_from")
    assert not list((tmp_path / "cache").rglob("*last.ckpt"))


def test_a_login_page_is_called_that_and_not_kept(checkpoint: bytes) -> None:
    answers = {"/last.ckpt": (200, PAGE)}
    with server(answers) as address:
        with pytest.raises(CheckpointError, match="it is an HTML page"):
            fetch_checkpoint(f"{address}/last.ckpt", "model.init_from")
        answers["/last.ckpt"] = (200, checkpoint)
        mended = fetch_checkpoint(f"{address}/last.ckpt", "model.init_from")
        assert mended.read_bytes() == checkpoint


@pytest.mark.parametrize("source", ["s3://bucket/last.ckpt", "ftp://host/last.ckpt"])
def test_other_schemes_are_refused_with_those_there_are(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"form\. Give a path, https://HOST/FILE, hf://"):
        fetch_checkpoint(source, "model.init_from")


@pytest.mark.parametrize(
    "source", ["hf://user", "hf://user/repo", "hf:///repo/file", "hf://a/b@/c"]
)
def test_a_hub_address_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"it should read hf://USER/REPO"):
        fetch_checkpoint(source, "model.init_from")


@pytest.mark.parametrize("revision", ["", "@v1.0"])
def test_a_hub_file_is_asked_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(tmp_path / "file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    source = f"hf://boris/vqgan_f16_16384{revision}/sub/model.ckpt"
    assert fetch_checkpoint(source, "model.init_from") == tmp_path / "file"
    expected = revision.removeprefix("@") or None
    assert asked == [("boris/vqgan_f16_16384", "sub/model.ckpt", expected)]


def test_the_hubs_own_client_downloads_from_a_hub(checkpoint: bytes, tmp_path: Path) -> None:
    fetch = (
        "from vqgan_train.checkpoint.fetching import fetch_checkpoint as fetch\n"
        "print(fetch('hf://boris/vqgan@v1/model.ckpt', 'model.init_from'))"
    )
    answers = {"/boris/vqgan/resolve/v1/model.ckpt": (200, checkpoint)}
    headers = {"ETag": f'"{hashlib.sha256(checkpoint).hexdigest()}"', "X-Repo-Commit": "a" * 40}
    with server(answers, headers=headers) as address:
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        finished = subprocess.run(
            [sys.executable, "-c", fetch],
            env={**os.environ, **hub, "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
        )
    assert finished.returncode == 0, finished.stderr
    assert Path(finished.stdout.strip()).read_bytes() == checkpoint


def test_an_artifact_has_a_name_and_a_path_has_none() -> None:
    assert artifact_name("wandb://entity/project/model-1:last") == "entity/project/model-1:last"
    assert artifact_name("runs/part1/checkpoints/last.ckpt") is None
    assert artifact_name(None) is None
