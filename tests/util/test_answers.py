"""Answers that are larger, slower or deeper than they may be, or that lead elsewhere."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from builder.util import limits
from builder.util.answers import TooLargeError, ask, parse_json, read_json

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def saying(*pieces: bytes, forever: bool = False, pause_seconds: float = 0.0) -> Iterator[str]:
    """Say pieces of an answer to whoever connects, the last one for ever if asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    talking, _ = listening.accept()
                except OSError:
                    return
                with talking:
                    talking.recv(65536)
                    try:
                        for piece in pieces:
                            talking.sendall(piece)
                        while forever:
                            talking.sendall(pieces[-1])
                            time.sleep(pause_seconds)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_an_answer_comes_whole_or_in_pieces() -> None:
    with saying(HEAD + b"Content-Length: 4\r\n\r\nbody") as url, requests.Session() as session:
        response, body = ask(session, "GET", url)
        assert (response.status_code, body) == (200, b"body")
        pieces: list[bytes] = []
        assert ask(session, "GET", url, into=pieces.append)[1] == b""
        assert pieces == [b"body"]


@pytest.mark.parametrize("length", [b"Content-Length: 900000000\r\n", b""])
def test_an_endless_answer_is_given_up(length: bytes) -> None:
    with (
        saying(HEAD + length + b"\r\n", b"x" * 65536, forever=True) as url,
        requests.Session() as session,
        pytest.raises(TooLargeError, match="more than 1,000,000 bytes"),
    ):
        ask(session, "GET", url, most_bytes=1_000_000)


@pytest.mark.parametrize("start", [HEAD + b"\r\n", HEAD + b"X-Slow: ", HEAD])
def test_an_answer_that_never_ends_is_given_up_in_its_head_too(start: bytes) -> None:
    start_seconds = time.monotonic()
    with (
        saying(start, b"x", forever=True, pause_seconds=0.02) as url,
        requests.Session() as session,
        pytest.raises(requests.RequestException),
    ):
        ask(session, "GET", url, seconds=0.3, timeout=5)
    assert time.monotonic() - start_seconds < 3


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://[::1", "//", "http://\xff\xff:x/"])
def test_a_redirect_that_leads_nowhere_is_no_answer(place: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    with saying(head) as url, requests.Session() as session, pytest.raises(requests.RequestException):
        ask(session, "GET", url, timeout=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUESTS_CA_BUNDLE", "/nowhere"),
        ("HTTPS_PROXY", "http://me:hush@"),
        ("HTTPS_PROXY", "://"),
        ("HTTPS_PROXY", "http://[::1"),
        ("HTTPS_PROXY", "\x1b"),
    ],
)
def test_what_the_environment_names_in_vain_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(name, value)
    with requests.Session() as session, pytest.raises(requests.RequestException) as caught:
        ask(session, "GET", "https://127.0.0.1:9/")
    assert isinstance(caught.value, ValueError)
    assert "hush" not in str(caught.value)


class _Downgrade(BaseAdapter):
    """Stands for a server at an https address that leads to http."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 302, request, str(request.url)
        response.headers["Location"] = self._url
        response.raw = HTTPResponse(io.BytesIO(b""), preload_content=False)
        return response

    def close(self) -> None:
        pass


def test_https_leads_to_nothing_else() -> None:
    with saying(HEAD + b"Content-Length: 4\r\n\r\nbody") as url, requests.Session() as session:
        session.mount("https://", _Downgrade(url))
        with pytest.raises(requests.RequestException, match="which is not https"):
            ask(session, "GET", "https://example.invalid/a")


@pytest.mark.parametrize("address", ["http://[::1", "https://", "x", "http://127.0.0.1:99999/"])
def test_what_is_not_an_address_is_not_asked(address: str) -> None:
    with requests.Session() as session, pytest.raises(requests.RequestException):
        ask(session, "GET", address)


@pytest.mark.parametrize(
    "text",
    ["", "<html>", "[" * 100_000, '{"a": NaN}', "[1e999]", "9" * 5000, '["\\ud800"]', b"\xff\xfe[", b"\x80"],
)
def test_json_that_can_t_be_used_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    assert parse_json('{"a": [1, "\\u00e9", null]}') == {"a": [1, "é", None]}


def test_a_file_that_never_ends_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    place.write_text("[1]")
    assert read_json(place) == [1]
    place.write_text(" " * (limits.ANSWER_BYTES + 1))
    with pytest.raises(ValueError, match="more than 16,777,216 bytes"):
        read_json(place)
    place.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(place)
        with pytest.raises(ValueError, match="not a file"):
            read_json(place)
        place.rmdir() if place.is_dir() else place.unlink()
    with pytest.raises(FileNotFoundError):
        read_json(place)
