"""A server that answers what a release asks of GitHub's API, as GitHub documents it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "someone/wheels"
PUBLISHED_AT = "2026-11-01T10:00:00Z"
TOKEN = "ghp_thisTokenMustNeverBeSeen0123456789"


class FakeGitHub:
    """What the server holds, and what was asked of it.

    Attributes:
        failure: Called first with each request; true if it has answered, or dropped the connection.
        requests: Method and path of each request.
        uploads: Name of each file that was sent.
    """

    def __init__(self, *tags: str) -> None:
        self.tags = set(tags)
        self.releases: dict[int, dict[str, Any]] = {}
        self.assets: dict[int, dict[str, Any]] = {}
        self.content: dict[int, bytes] = {}
        self.failure: Callable[[Request], bool] = lambda request: False
        self.requests: list[str] = []
        self.uploads: list[str] = []
        self.url = ""

    def add_release(self, **values: Any) -> dict[str, Any]:
        number = 100 + len(self.releases)
        url = f"{self.url}/repos/{REPOSITORY}/releases/{number}"
        release = {"id": number, "url": url, "html_url": url, "body": "", "prerelease": False, **values}
        self.releases[number] = {**release, "upload_url": f"{url}/assets{{?name,label}}"}
        return self.releases[number]

    def add_asset(self, release: int, name: str, content: bytes, **values: Any) -> dict[str, Any]:
        number = 1000 + len(self.content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        url = f"{self.url}/repos/{REPOSITORY}/releases/assets/{number}"
        asset = {"id": number, "url": url, "release": release, "name": name, "size": len(content)}
        self.assets[number] = {**asset, "state": "uploaded", "digest": digest, **values}
        self.content[number] = content
        return self.assets[number]

    def assets_of(self, release: int) -> list[dict[str, Any]]:
        return [asset for asset in self.assets.values() if asset["release"] == release]

    def files(self) -> dict[str, bytes]:
        """Return the content of each asset, by its name."""
        return {asset["name"]: self.content[number] for number, asset in self.assets.items()}


class Request(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other (Nagle's algorithm)
    github: FakeGitHub

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.route = parts.path.removeprefix(f"/repos/{REPOSITORY}")
        upload = self.command == "POST" and self.route.endswith("/assets")
        self.upload_name = parse_qs(parts.query)["name"][0] if upload else ""
        self.github.requests.append(f"{self.command} {self.route}")
        if self.github.failure(self):
            return
        if self.headers.get("Authorization") != f"token {TOKEN}":
            self.answer(401, {"message": "Bad credentials"})
        else:
            number = re.search(r"/(\d+)(?=/|$)", self.route)
            route = re.sub(r"/\d+(?=/|$)", "/N", self.route)
            self._answer(f"{self.command} {route}", int(number[1]) if number else 0)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def _answer(self, route: str, number: int) -> None:
        github = self.github
        if route == "GET /releases":
            releases = github.releases.items()
            self.answer(200, [{**made, "assets": github.assets_of(number)} for number, made in releases])
        elif route == "POST /releases":
            self.answer(201, github.add_release(**json.loads(self.body)))
        elif route == "PATCH /releases/N":
            github.releases[number] |= {"published_at": PUBLISHED_AT, **json.loads(self.body)}
            self.answer(200, github.releases[number])
        elif route == "GET /releases/N/assets":
            self.answer(200, github.assets_of(number))
        elif self.upload_name in [asset["name"] for asset in github.assets_of(number)]:
            self.answer(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]})
        elif self.upload_name:
            github.uploads.append(self.upload_name)
            self.answer(201, github.add_asset(number, self.upload_name, self.body))
        elif route == "DELETE /releases/assets/N":
            self.answer(204 if github.assets.pop(number, None) else 404, b"")
        else:
            tags = {f"/git/ref/tags/{tag}" for tag in github.tags}
            self.answer(200 if self.route in tags else 404, {"message": "Not Found"})

    def answer(self, status: int, values: Any = None) -> None:
        content = values if isinstance(values, bytes) else json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving_github(*tags: str) -> Iterator[FakeGitHub]:
    """Serve a repository that has these tags while the block runs."""
    github = FakeGitHub(*tags)
    handler = type("BoundRequest", (Request,), {"github": github})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        github.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield github
        finally:
            server.shutdown()
