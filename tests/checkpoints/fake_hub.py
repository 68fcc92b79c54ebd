"""A hub on this machine: what huggingface_hub asks of huggingface.co to download a repository, and no more."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_right"
COMMIT = {"main": "a" * 40, "v1": "b" * 40}

#: Repositories that the hub has beside those with files.
GATED, PRIVATE, BROKEN = "owner/gated", "owner/private", "owner/broken"


class Hub(ThreadingHTTPServer):
    """Serves files: repository -> revision -> path -> content. `asked` lists (method, path, token) of every request."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, Mapping[str, Mapping[str, bytes]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(files: Mapping[str, Mapping[str, Mapping[str, bytes]]]) -> Iterator[Hub]:
    """A hub that answers while the context is open."""
    with Hub(files) as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, token))
        asked = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?", path)
        if asked is None:
            return self._refuse(404, "EntryNotFound")
        repo, what, revision, file = asked.groups()
        if token not in (None, TOKEN):
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if repo == BROKEN:
            return self._refuse(500, None)
        if repo == GATED and token is None:
            return self._refuse(401, "GatedRepo", "Access to model owner/gated is restricted.")
        if repo not in self.server.files or (repo == PRIVATE and token is None):
            return self._refuse(401 if token is None else 404, "RepoNotFound")
        commits = {name: COMMIT[name] for name in self.server.files[repo]}
        names = {commit: name for name, commit in commits.items()} | {name: name for name in commits}
        if revision and revision not in names:
            return self._refuse(404, "RevisionNotFound")
        name = names[revision or "main"]
        held = self.server.files[repo][name]
        if what == "resolve":
            if file not in held:
                return self._refuse(404, "EntryNotFound")
            return self._send(held[file], commit=commits[name])
        if what == "tree":
            found = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in held.items()
            ]
            return self._send(json.dumps(found).encode())
        about = {"id": repo, "modelId": repo, "sha": commits[name], "siblings": [{"rfilename": one} for one in held]}
        return self._send(json.dumps(about).encode())

    def _send(self, data: bytes, *, commit: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if commit is not None:
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str | None, message: str = "no") -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()
