"""An S3 server on loopback: moto's, which the libraries of the real one cannot tell from it."""

import contextlib
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from moto.server import ThreadedMotoServer

BUCKET = "photos"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret-of-someone"}
AWS_SETTINGS = (*KEYS, "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION")


class S3Server:
    """A running server with one bucket.

    Args:
        url: where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.send("PUT", f"/{BUCKET}", b"")

    def put(self, file: Path, *, public: bool = False) -> None:
        """Upload a file under its name."""
        acl = {"x-amz-acl": "public-read"} if public else {}
        self.send("PUT", f"/{BUCKET}/{file.name}", file.read_bytes(), **acl)

    def know_nobody(self, *, sure: bool = True) -> None:
        """From now on whoever asks must be known, and nobody is; or the opposite."""
        self.send("POST", "/moto-api/reset-auth", b"0" if sure else b"inf")

    def send(self, method: str, path: str, body: bytes, **headers: str) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(
            self.url + path, body, kind | {k.replace("_", "-"): v for k, v in headers.items()}
        )
        request.method = method
        with urllib.request.urlopen(request) as answer:
            answer.read()


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()
