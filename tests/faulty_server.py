"""A web server on loopback whose files come as well, or as badly, as a test says."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG_SECONDS = 600
"""How long a stalling server keeps its connection: longer than any test waits."""

Fault = Callable[["Handler", bytes], None]


class FaultyServer:
    """Serves the files of a folder. Start and stop it with `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        """By file name: what happens to the next requests, one after the other; then all is well,
        unless the last fault is in `always`."""
        self.always: dict[str, Fault] = {}
        self.requests: Counter[str] = Counter()
        """How often each file was asked for."""
        self.bytes_sent: Counter[str] = Counter()
        """How much of each file `with_ranges` has sent."""
        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "FaultyServer":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def __init__(self, server: FaultyServer, *args: object) -> None:
        self.files = server
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rsplit("/", 1)[-1]
        self.files.requests[name] += 1
        waiting = self.files.faults[name]
        fault = waiting.pop(0) if waiting else self.files.always.get(name, well)
        file = self.files.folder / name
        if file.exists():
            with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
                fault(self, file.read_bytes())
        else:
            self.send_error(404)

    def begin(self, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def well(handler: Handler, body: bytes) -> None:
    handler.begin(len(body))
    handler.wfile.write(body)


def status(code: int) -> Fault:
    return lambda handler, _: handler.send_error(code)


def drop_after(num_bytes: int, *, with_length: bool = True) -> Fault:
    """Close the connection in the middle; without a length nothing in HTTP tells."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.begin(len(body) if with_length else None)
        handler.wfile.write(body[:num_bytes])
        handler.close_connection = True

    return fault


def stall_after(num_bytes: int) -> Fault:
    """Send so much and then nothing, with the connection open."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.begin(len(body))
        handler.wfile.write(body[:num_bytes])
        handler.files.closing.wait(HANG_SECONDS)

    return fault


def stall_before_headers(handler: Handler, body: bytes) -> None:
    handler.files.closing.wait(HANG_SECONDS)


def trickle(handler: Handler, body: bytes) -> None:
    """A byte every 20 ms."""
    handler.begin(len(body))
    for byte in body:
        if handler.files.closing.wait(0.02):
            return
        handler.wfile.write(bytes([byte]))


def slowly(handler: Handler, body: bytes) -> None:
    """In ten pieces within two seconds: slow, but it comes."""
    handler.begin(len(body))
    for first in range(0, len(body), len(body) // 10 + 1):
        handler.wfile.write(body[first : first + len(body) // 10 + 1])
        handler.files.closing.wait(0.2)


def other(content: bytes) -> Fault:
    """Another file, whole."""
    return lambda handler, _: well(handler, content)


def busy(code: int, **headers: str) -> Fault:
    """Refuse with headers, whose names have _ for -."""

    def fault(handler: Handler, _: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def with_ranges(tag: str, *, at_most: int | None = None) -> Fault:
    """Send a file, or the rest of one whose ETag the client knows; close after `at_most` bytes."""

    def fault(handler: Handler, body: bytes) -> None:
        is_same = handler.headers.get("If-Range") == tag
        first = int(handler.headers["Range"][6:-1]) if is_same else 0
        handler.send_response(206 if first else 200)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(body) - first))
        handler.end_headers()
        piece = body[first:][:at_most]
        handler.files.bytes_sent[handler.path.rsplit("/", 1)[-1]] += len(piece)
        handler.wfile.write(piece)
        handler.close_connection = True

    return fault
