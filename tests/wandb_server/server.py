"""The HTTP side: where what goes."""

import base64
import gzip
import json
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from wandb_server.graphql import Parser, UnknownError, execute
from wandb_server.mutations import Mutations
from wandb_server.nodes import Nodes
from wandb_server.store import Collection, RefusedError, Run, RunKey, Store

MOST_BYTES_OF_A_BODY = 64 * 2**20
SILENCE_SECONDS = 30
"""After which a connection that is kept open is closed."""


class WandbServer:
    """A W&B server on loopback, for one user and one key, in memory.

    Start and stop it with `with`. What it got is whole when the client has finished.

    Args:
        api_key: the only key that it lets in; 40 characters.
        entity: the user, who alone has projects here.
    """

    def __init__(self, api_key: str, entity: str = "tester") -> None:
        self.api_key = api_key
        self.store = Store(entity)
        self.unknown: list[str] = []
        """What a client asked for and this server does not know: the fixture wants it empty."""
        self.requests: list[tuple[str, Any]] = []
        """Every GraphQL operation with its variables; of the rest, method and path."""
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.base_url = f"http://127.0.0.1:{self.http.server_port}"
        self.nodes = Nodes(self.store, self.base_url)
        self.mutations = Mutations(self.store, self.nodes)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "WandbServer":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def variables(self, folder: Path) -> dict[str, str]:
        """Environment variables that lead a client here, and its files into a folder.

        A process of its own needs them all; WANDB_SERVICE would lead it to its parent's client.
        """
        folders = ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR")
        return {
            "WANDB_BASE_URL": self.base_url,
            "WANDB_API_KEY": self.api_key,
            "WANDB_SERVICE": "",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "WANDB_DISABLE_CODE": "true",
            "WANDB_DISABLE_GIT": "true",
            "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # whole seconds; 15 by default
            "NETRC": str(folder / "netrc"),
            "NO_PROXY": "127.0.0.1",
            **{f"WANDB_{name}": str(folder / name.lower()) for name in folders},
        }

    @property
    def runs(self) -> dict[RunKey, Run]:
        """Runs by (entity, project, id)."""
        return self.store.runs

    @property
    def artifacts(self) -> dict[RunKey, Collection]:
        """Artifacts by (entity, project, name)."""
        return self.store.artifacts

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one query: its data, or what is wrong with it."""
        document = Parser(query)
        operation = document.operation
        self.requests.append((operation.name, variables))
        is_query = operation.kind == "query"
        root = self.nodes.query() if is_query else self.mutations.mutation()
        try:
            return {"data": execute(document, root, variables)}
        except UnknownError as error:
            self.unknown.append(f"{operation.kind} {operation.name}: {error}")
            return {"errors": [{"message": f"unknown here: {error}"}]}
        except RefusedError as error:
            return {"errors": [{"message": str(error)}]}

    def answer(self, method: str, path: list[str], body: bytes) -> bytes:
        """Do what a request asks for; its answer.

        Raises:
            LookupError: there is nothing at this path.
        """
        match method, path:
            case "POST", ["graphql"]:
                asked = json.loads(body)
                return dump(self.graphql(asked["query"], asked.get("variables") or {}))
            case "POST", ["files", entity, project, run, "file_stream"]:
                return self.stream(self.runs[entity, project, run], json.loads(body))
            case "PUT", ["run-files", entity, project, run, name]:
                self.runs[entity, project, run].files[name] = body
            case "GET", ["run-files", entity, project, run, name]:
                return self.runs[entity, project, run].files[name]
            case "PUT", ["artifact-files", version, name]:
                self.store.versions[version].files[name] = body
            case "GET", ["artifact-files", version, name]:
                return self.store.versions[version].files[name]
            case "PUT", ["artifact-manifests", version]:
                self.store.versions[version].manifest = body
            case "GET", ["artifact-manifests", version]:
                return self.store.versions[version].manifest
            case _:
                raise LookupError(path)
        return b""

    def stream(self, run: Run, sent: dict[str, Any]) -> bytes:
        """Take in what a run streams: lines of its files, and its end."""
        for file, chunk in (sent.get("files") or {}).items():
            run.stream(file, chunk["offset"], chunk["content"])
        if sent.get("complete"):
            run.finish(sent["exitcode"])
        return dump({"limits": {}})


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def errors(message: str) -> bytes:
    return dump({"errors": [{"message": message}], "data": None})


class Handler(BaseHTTPRequestHandler):
    """Reads a request, checks its key, writes the answer."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE_SECONDS

    def __init__(self, server: WandbServer, *connection: Any) -> None:
        self.wandb = server
        super().__init__(*connection)  # which handles its requests

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MOST_BYTES_OF_A_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body stays unread
            self.wandb.unknown.append(f"{self.command} {self.path}: a body of {length} bytes")
            return self.reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(length)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        with self.wandb.lock:
            return self.reply(*self.answer(path, body))

    do_GET = do_POST = do_PUT = handle_request  # noqa: N815

    def answer(self, path: list[str], body: bytes) -> tuple[HTTPStatus, bytes]:
        needs_key = path[0] in ("graphql", "files")
        is_let_in = not needs_key or self.key() == self.wandb.api_key
        if path != ["graphql"] or not is_let_in:
            self.wandb.requests.append((self.command, self.path))
        if not is_let_in:
            return HTTPStatus.UNAUTHORIZED, errors("user is not logged in")
        try:
            return HTTPStatus.OK, self.wandb.answer(self.command, path, body)
        except PermissionError as error:
            return HTTPStatus.FORBIDDEN, errors(str(error))
        except Exception as error:  # whatever it is, the test has to see it
            self.wandb.unknown.append(f"{self.command} {self.path}: {error!r}")
            return HTTPStatus.NOT_FOUND, errors(repr(error))

    def key(self) -> str:
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(word).decode().partition(":")[2] if kind == "Basic" else word

    def reply(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: what came is in `requests`."""
