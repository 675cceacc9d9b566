"""Keeps objects on another machine: in a Redis server, behind an HTTP server, or in a shared folder."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import requests

from builder.util import files
from builder.util.answers import send
from builder.util.limits import REMOTE_OBJECT_BYTES, REMOTE_SECONDS


class Storage(Protocol):
    """Keeps objects by their names. Both methods may raise anything: who knows what a server answers."""

    def get(self, name: str) -> bytes | None:
        """Return an object; None if there is none of that name."""

    def put(self, name: str, data: bytes) -> None:
        """Keep an object, in place of an older one of that name."""


class _Stream(Protocol):
    def read(self, amount: int, /) -> bytes: ...


def open_storage(url: str, seconds: float = REMOTE_SECONDS) -> Storage:
    """Return the storage at an address; nothing is asked of it yet.

    Args:
        url: `redis://` or `rediss://` (`[[USER:]PASSWORD@]HOST[:PORT][/DATABASE]`), `http://`, `https://`, or
            `file:` and a folder.
        seconds: How long to wait for a connection, and for each next piece of an answer.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _Folder(Path(unquote(parts.path)))
    return _Redis(parts, seconds) if parts.scheme.startswith("redis") else _Web(parts, seconds)


class _Folder:
    """A shared folder, which has to be there: an empty mount point's parent is not filled instead."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str) -> bytes | None:
        try:
            with (self._root / name[:2] / name).open("rb") as stream:
                return _whole(stream)
        except FileNotFoundError:
            if self._root.is_dir():
                return None
            raise

    def put(self, name: str, data: bytes) -> None:
        self._root.stat()
        files.write(self._root / name[:2] / name, data)


class _Web:
    """A server that takes PUT and GET; a query in the address, such as a token, goes with each request."""

    def __init__(self, parts: SplitResult, seconds: float) -> None:
        self._parts = parts
        self._seconds = seconds

    def get(self, name: str) -> bytes | None:
        with self._ask("GET", name) as response:
            if response.status_code == requests.codes.not_found:
                return None
            _refuse(response, {requests.codes.ok})
            return _whole(response.raw)

    def put(self, name: str, data: bytes) -> None:
        with self._ask("PUT", name, data) as response:
            _refuse(response, {requests.codes.ok, requests.codes.created, requests.codes.no_content})

    def _ask(self, method: str, name: str, data: bytes | None = None) -> requests.Response:
        url = urlunsplit(self._parts._replace(path=f"{self._parts.path.rstrip('/')}/{name}"))
        options = {"timeout": self._seconds, "stream": True, "allow_redirects": False}
        return send(requests.Session(), method, url, data=data, **options)


def _refuse(response: requests.Response, good: set[int]) -> None:
    if response.status_code not in good:
        raise ConnectionError(f"it answers with status {response.status_code}")


class _Redis:
    """A Redis server, or one that speaks its protocol (RESP, version 2)."""

    def __init__(self, parts: SplitResult, seconds: float) -> None:
        self._parts = parts
        self._seconds = seconds
        # A user name without a password is a password, as ccache has it.
        words = [unquote(word) for word in (parts.username, parts.password) if word]
        database = parts.path.strip("/")
        self._greeting = [["AUTH", *words]] if words else []
        self._greeting += [["SELECT", database]] if database else []

    def get(self, name: str) -> bytes | None:
        return self._ask("GET", name)

    def put(self, name: str, data: bytes) -> None:
        self._ask("SET", name, data)

    def _ask(self, *words: str | bytes) -> bytes | None:
        host = self._parts.hostname or ""
        with socket.create_connection((host, self._parts.port or 6379), self._seconds) as plain:
            tls = ssl.create_default_context() if self._parts.scheme == "rediss" else None
            link = tls.wrap_socket(plain, server_hostname=host) if tls else plain
            with link, link.makefile("rwb") as stream:
                for command in (*self._greeting, words):
                    sent = [word.encode() if isinstance(word, str) else word for word in command]
                    stream.write(b"*%d\r\n" % len(sent))
                    stream.writelines(b"$%d\r\n%b\r\n" % (len(word), word) for word in sent)
                    stream.flush()
                    answer = _answer(stream.readline(1000), stream)
                return answer


def _answer(line: bytes, stream: _Stream) -> bytes | None:
    if line[:1] == b"+":
        return line
    if match := re.fullmatch(rb"\$(-1|\d{1,12})\r\n", line):
        size = int(match[1])
        if size < 0:
            return None
        if size <= REMOTE_OBJECT_BYTES and len(data := stream.read(size + 2)) == size + 2:
            return data[:-2]
    # A server may say anything, the password too: only words that are known are told.
    word = re.match(rb"-(NOAUTH|WRONGPASS|NOPERM|OOM|READONLY|LOADING|ERR)\b", line)
    raise ConnectionError(f"it answers with {word[1].decode() if word else 'what is not an object'}")


def _whole(stream: _Stream) -> bytes:
    data = stream.read(REMOTE_OBJECT_BYTES + 1)
    if len(data) > REMOTE_OBJECT_BYTES:
        raise ConnectionError("it answers with more than an object")
    return data
