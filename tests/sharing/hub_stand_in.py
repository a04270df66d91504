"""A server on this machine that answers as the Hugging Face Hub does, as far as models are pushed and fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server holds: repository → file → content; and what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.read_only = False
        self.gated: set[str] = set()
        self.url = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content)), "X-Request-Id": "1"} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def fail(self, status: int, code: str = "", text: str = "") -> None:
            self.answer(status, {"error": text or code}, X_Error_Code=code, X_Error_Message=text or code)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self) -> None:
            content, path = self.body(), self.path.partition("?")[0]
            hub.asked.append(f"POST {path}")
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.fail(401, text="Invalid username or password.")
            if hub.read_only:
                return self.fail(403, text="You don't have the rights to create a model.")
            if path == "/api/repos/create":
                asked = json.loads(content)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                known = name in hub.repos
                hub.repos.setdefault(name, {})
                return self.answer(409 if known else 200, {"url": f"{hub.url}/{name}", "name": name})
            kind, name, revision = self.api(path)
            if name not in hub.repos:
                return self.fail(404, "RepoNotFound", "Repository not found")
            if revision != "main":
                return self.fail(404, "RevisionNotFound", "Invalid rev id")
            if kind == "preupload":
                files = [file["path"] for file in json.loads(content)["files"]]
                modes = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
                return self.answer(200, {"files": modes})
            if kind == "commit":
                for line in content.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.repos[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                done = {"success": True, "commitOid": COMMIT, "commitUrl": f"{hub.url}/{name}/commit/{COMMIT}"}
                return self.answer(200, done)
            return self.fail(404, "EntryNotFound", path)

        def api(self, path: str) -> tuple[str, str, str]:
            parts = path.split("/")  # /api/models/USER/NAME/KIND/REVISION
            kind, revision = (*parts[5:], "", "")[:2]
            return kind, "/".join(parts[3:5]), revision

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if path.startswith("/api/models/"):
                _, name, revision = self.api(path)
                if name not in hub.repos:
                    return self.fail(404, "RepoNotFound", "Repository not found")
                files = [{"rfilename": file} for file in hub.repos[name]]
                return self.answer(200, {"id": name, "sha": COMMIT, "siblings": files, "private": False})
            parts = path.split("/")  # /USER/NAME/resolve/REVISION/FILE
            name, revision, file = "/".join(parts[1:3]), parts[4], "/".join(parts[5:])
            if name not in hub.repos:
                return self.fail(401 if "private" in name else 404, "RepoNotFound", "Repository not found")
            if name in hub.gated:
                return self.fail(403, "GatedRepo", "Access to this model is restricted")
            if revision not in ("main", COMMIT, "v1"):
                return self.fail(404, "RevisionNotFound", "Invalid rev id")
            if file not in hub.repos[name]:
                return self.fail(404, "EntryNotFound", "Entry not found")
            content = hub.repos[name][file]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

        do_HEAD = do_GET

    return Handler


@contextmanager
def stand_in() -> Iterator[Hub]:
    """Within, the server answers at ``hub.url``, on loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
