"""Hugging Face's hub on this machine, as far as an upload goes."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

REPOSITORY = r"/api/models/[^/]+/[^/]+"
"""Where a client asks whether there is one."""

WEIGHTS = (".safetensors", ".msgpack", ".ckpt")

COMMIT = "c" * 40


class HubServer:
    """Takes repositories and commits of one user.

    Args:
        token: the one that it knows.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, Any]] = {}
        """What was asked for each, by USER/REPO."""
        self.files: dict[str, bytes] = {}
        """Of the last commit."""
        self.num_commits = 0
        self.blobs: dict[str, bytes] = {}
        """Files that are kept apart, as the hub does with weights, by their hash."""
        self.cards: list[str] = []
        """That were to be checked."""
        self.refused = ""
        """A path that is answered with 403."""
        self.unknown: list[str] = []

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, b"")

            def do_POST(self) -> None:
                hub.answer(self, self.body())

            def do_PUT(self) -> None:
                hub.blobs[self.path.removeprefix("/blobs/")] = self.body()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def body(self) -> bytes:
                length = self.headers.get("Content-Length")
                if length:
                    return self.rfile.read(int(length))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.split("?")[0]
        is_known = request.headers.get("Authorization") == f"Bearer {self.token}"
        if not is_known or path == self.refused:
            status, content = (403 if is_known else 401), {"error": "You may not do this."}
        else:
            status, content = 200, self.take(path, body)
        if content is None:
            if not re.fullmatch(REPOSITORY, path):
                self.unknown.append(path)
            status, content = 404, {"error": "not here"}
        encoded = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(encoded)))
        request.end_headers()
        request.wfile.write(encoded)

    def take(self, path: str, body: bytes) -> dict[str, Any] | None:
        if path == "/api/whoami-v2":
            return {"name": "tester", "type": "user", "auth": {"type": "access_token"}}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            self.repositories.setdefault(name, asked)
            return {"url": f"{self.address}/{name}", "id": name, "name": name}
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return {"errors": [], "warnings": []}
        for name, asked in self.repositories.items():
            if path == f"/api/models/{name}":
                return {"id": name, "private": asked.get("private", False)}
            if path == f"/api/models/{name}/preupload/main":
                return {"files": [self.upload_mode(file) for file in json.loads(body)["files"]]}
            if path == f"/api/models/{name}/commit/main":
                lines = [json.loads(line) for line in body.splitlines()]
                self.num_commits += 1
                self.files = {
                    line["value"]["path"]: self.content(line["key"], line["value"])
                    for line in lines
                    if line["key"] != "header"
                }
                address = f"{self.address}/{name}/commit/{COMMIT}"
                return {"success": True, "commitOid": COMMIT, "commitUrl": address}
            if path == f"/{name}.git/info/lfs/objects/batch":
                objects = json.loads(body)["objects"]
                return {"transfer": "basic", "objects": [self.place(entry) for entry in objects]}
        return None

    def place(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put."""
        upload = {"href": f"{self.address}/blobs/{entry['oid']}", "header": {}}
        return {"oid": entry["oid"], "size": entry["size"], "actions": {"upload": upload}}

    def content(self, kind: str, file: dict[str, Any]) -> bytes:
        return self.blobs[file["oid"]] if kind == "lfsFile" else base64.b64decode(file["content"])

    def upload_mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith(WEIGHTS) else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
