"""A web server on this machine that serves photos as the web does: some of them not at all."""

import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

SLOW_SECONDS = 4
PAGE = b"<!DOCTYPE html><html><body>This page has moved.</body></html>"


def large_png() -> bytes:
    """A PNG of 1200 x 900 pixels."""
    encoded = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((1200, 900)).save(encoded, "PNG")
    return encoded.getvalue()


@contextmanager
def photo_server(photos: Mapping[str, bytes]) -> Iterator[str]:
    """Serve photos by name, and beside them what goes wrong.

    `/NAME` is a photo, `/NAME?page` a page called image/jpeg, `/NAME?slow` comes too late,
    `/NAME?broken` ends in the middle of the body, `/NAME?short` is half a file that says it is
    whole, `/NAME?noai` asks not to be used; anything else is not found.

    Yields:
        Where it is: http://127.0.0.1:PORT.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, trouble = self.path.removeprefix("/").partition("?")
            if name not in photos:
                self.send_error(404)
                return
            body = {"page": PAGE, "short": photos[name][: len(photos[name]) // 2]}.get(
                trouble, photos[name]
            )
            if trouble == "slow":
                time.sleep(SLOW_SECONDS)
            with suppress(ConnectionError):  # it was too slow, and the client has left
                self.answer(body, trouble)

        def answer(self, body: bytes, trouble: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            if trouble == "noai":
                self.send_header("X-Robots-Tag", "noai")
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if trouble == "broken" else body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
