"""A server on this machine that plays GitHub's API for releases."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from made_up_wheels import (
    NATIVE,
    NATIVE_BASIC,
    UNIVERSAL,
)

from builder.publish import release
from builder.util.errors import BuilderError

TOKEN = "ghp_thisTokenMustNeverBeSeen0123456789"


REPOSITORY = "someone/wheels"


TAG = "v2.2.0-1"

FailureHook = Callable[["Handler", str], bool]


@dataclass
class State:
    """What the played API holds, and what was asked of it."""

    tags: set[str] = field(default_factory=lambda: {TAG})
    releases: dict[int, dict[str, Any]] = field(default_factory=dict)
    assets: dict[int, dict[str, Any]] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    failures: list[FailureHook] = field(default_factory=list)
    page_size: int = 3
    with_digest: bool = True
    next_id: int = 1

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def names(self) -> list[str]:
        return sorted(str(asset["name"]) for asset in self.assets.values())

    def add_release(self, **values: Any) -> dict[str, Any]:
        number = self.new_id()
        made = {"id": number, "html_url": f"https://example.invalid/releases/{number}", "body": "", **values}
        self.releases[number] = made
        return made

    def add_asset(self, release_id: int, name: str, content: bytes, **values: Any) -> dict[str, Any]:
        number = self.new_id()
        asset = {
            "id": number,
            "release": release_id,
            "name": name,
            "size": len(content),
            "state": "uploaded",
            "digest": "sha256:" + hashlib.sha256(content).hexdigest() if self.with_digest else None,
            **values,
        }
        self.assets[number] = asset
        self.content[number] = content
        return asset


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to the played API."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other (Nagle's algorithm)
    state: State
    body: bytes = b""

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = urlsplit(self.path).path
        self.state.asked.append(f"{self.command} {path}")
        for fails in list(self.state.failures):
            if fails(self, path):
                return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"message": "Bad credentials"})
            return
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                function(self, *match.groups())
                return
        self.answer(404, {"message": "Not Found"})

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def answer(self, status: int, values: Any = None, **headers: str) -> None:
        content = b"" if values is None else json.dumps(values).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def page(self, items: list[dict[str, Any]]) -> None:
        number = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        size = self.state.page_size
        headers = {}
        if number * size < len(items):
            headers["Link"] = f'<{self.root}{urlsplit(self.path).path}?page={number + 1}>; rel="next"'
        self.answer(200, items[(number - 1) * size : number * size], **headers)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    @property
    def upload_name(self) -> str:
        return parse_qs(urlsplit(self.path).query)["name"][0]

    def shown(self, made: dict[str, Any]) -> dict[str, Any]:
        upload = f"{self.root}/uploads/{made['id']}/assets{{?name,label}}"
        return {**made, "upload_url": upload}

    def list_releases(self) -> None:
        self.page([self.shown(made) for made in self.state.releases.values()])

    def find_tag(self, name: str) -> None:
        self.answer(200, {}) if name in self.state.tags else self.answer(404, {"message": "Not Found"})

    def create(self) -> None:
        self.answer(201, self.shown(self.state.add_release(**json.loads(self.body))))

    def change(self, number: str) -> None:
        self.state.releases[int(number)].update(json.loads(self.body))
        self.answer(200, self.shown(self.state.releases[int(number)]))

    def list_assets(self, number: str) -> None:
        self.page([asset for asset in self.state.assets.values() if asset["release"] == int(number)])

    def upload(self, number: str) -> None:
        if self.upload_name in self.state.names():
            self.answer(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]})
            return
        self.state.uploaded.append(self.upload_name)
        self.answer(201, self.state.add_asset(int(number), self.upload_name, self.body))

    def remove(self, number: str) -> None:
        gone = self.state.assets.pop(int(number), None)
        self.answer(204 if gone else 404)

    def download(self, number: str) -> None:
        content = self.state.content[int(number)]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", f"/repos/{REPOSITORY}/releases", Handler.list_releases),
    ("POST", f"/repos/{REPOSITORY}/releases", Handler.create),
    ("PATCH", rf"/repos/{REPOSITORY}/releases/(\d+)", Handler.change),
    ("GET", f"/repos/{REPOSITORY}/git/ref/tags/(.+)", Handler.find_tag),
    ("GET", rf"/repos/{REPOSITORY}/releases/(\d+)/assets", Handler.list_assets),
    ("POST", r"/uploads/(\d+)/assets", Handler.upload),
    ("DELETE", rf"/repos/{REPOSITORY}/releases/assets/(\d+)", Handler.remove),
    ("GET", rf"/repos/{REPOSITORY}/releases/assets/(\d+)", Handler.download),
]


class Played:
    """The played API, a wheelhouse, and a way to release it."""

    def __init__(self, url: str, state: State, wheelhouse: Path) -> None:
        self.url, self.state, self.wheelhouse = url, state, wheelhouse
        self.waits: list[float] = []
        self.errors: list[BuilderError] = []
        self.audited: list[str] = []

    def run(self, *arguments: str) -> None:
        given = ["--wheelhouse", str(self.wheelhouse), "--tag", TAG, "--repository", REPOSITORY]
        given += ["--api-url", self.url, *arguments]

        def audit(paths: Any) -> int:
            self.audited += [path.name for path in paths]
            return 0

        try:
            assert release.main(given, audit=audit, sleep=self.waits.append) == 0
        except BuilderError as error:
            self.errors.append(error)
            raise

    def release(self) -> dict[str, Any]:
        (made,) = self.state.releases.values()
        return made

    def contents(self) -> dict[str, bytes]:
        return {asset["name"]: self.state.content[number] for number, asset in self.state.assets.items()}


def expected_names() -> list[str]:
    names = [f"{wheel}{suffix}" for wheel in (NATIVE, NATIVE_BASIC, UNIVERSAL) for suffix in ("", ".json")]
    return sorted(
        [*names, f"{NATIVE}.smoketest.json", f"{NATIVE}.metadata", f"{UNIVERSAL}.metadata", "SHA256SUMS"]
    )


def once(hook: FailureHook, times: int = 1) -> FailureHook:
    """A failure that happens so many times."""
    left = [times]

    def fails(handler: Handler, path: str) -> bool:
        if left[0] and hook(handler, path):
            left[0] -= 1
            return True
        return False

    return fails
