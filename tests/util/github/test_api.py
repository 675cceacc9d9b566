"""The client of GitHub's API, against a server on this machine that gives the answers of a test in turn."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from builder.util import limits
from builder.util.errors import UsageError
from builder.util.github.api import Api, token_from
from builder.util.github.reply import GitHubError, TransientError

TOKEN = "ghp_thisTokenMustNeverBeSeen0123456789"


class Server:
    """A server that gives its answers in turn, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[str] = []
        self.sent: list[bytes] = []
        self.waits: list[float] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                server.asked.append(f"{self.command} {self.path} {self.headers['Authorization']}")
                server.sent.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                status, headers, content = server.answers.pop(0)
                self.send_response(status, headers.pop("reason", None))
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.api = Api(self.url, TOKEN, sleep=self.waits.append)

    def will_answer(self, status: int, value: Any = None, **headers: str) -> None:
        content = b"" if value is None else json.dumps(value).encode()
        self.answers.append(
            (status, {name.replace("_", "-"): text for name, text in headers.items()}, content)
        )


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def test_the_token_comes_from_the_environment() -> None:
    assert token_from({"GITHUB_TOKEN": " a ", "GH_TOKEN": "b"}) == "a"
    assert token_from({"GITHUB_TOKEN": "", "GH_TOKEN": "b"}) == "b"
    assert token_from({}) is None


def test_a_list_is_read_page_after_page(server: Server) -> None:
    server.will_answer(200, [1, 2], Link=f'<{server.url}/things?page=2>; rel="next"')
    server.will_answer(200, [3])
    assert list(server.api.list("things")) == [1, 2, 3]
    assert server.asked == [
        f"GET /things?per_page=100 Bearer {TOKEN}",
        f"GET /things?page=2 Bearer {TOKEN}",
    ]


def test_the_token_does_not_follow_a_list_to_another_host(server: Server) -> None:
    server.will_answer(200, [1], Link='<https://example.invalid/things?page=2>; rel="next"')
    with pytest.raises(GitHubError, match="no token goes there"):
        list(server.api.list("things"))


@pytest.mark.parametrize(
    "following",
    [
        "http://127.0.0.1:1/things",
        "https://{host}/things",
        "http://me@{host}/things",
        "//{host}/",
        "http://[::1",
    ],
)
def test_the_token_does_not_follow_a_list_elsewhere(server: Server, following: str) -> None:
    link = following.format(host=server.url.partition("//")[2])
    server.will_answer(200, [1], Link=f'<{link}>; rel="next"')
    with pytest.raises(GitHubError, match="no token goes there"):
        list(server.api.list("things"))


def test_the_token_goes_to_this_machine_without_a_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.will_answer(200, {"id": 1})
    assert server.api.get("things/1") == {"id": 1}


def test_only_an_assets_content_may_come_from_elsewhere(server: Server) -> None:
    elsewhere = Server()
    threading.Thread(target=elsewhere.http.serve_forever, daemon=True).start()
    for path in ("release", "content"):
        server.will_answer(302, None, Location=f"{elsewhere.url}/{path}")
        elsewhere.will_answer(200, {"id": 1})
    with pytest.raises(GitHubError, match="no token goes there"):
        server.api.get("things/1")
    assert server.api.sha256_of("assets/1", 9) == hashlib.sha256(b'{"id": 1}').hexdigest()
    assert elsewhere.asked == ["GET /release None", "GET /content None"]
    elsewhere.http.shutdown()
    elsewhere.http.server_close()


def test_a_list_has_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGES", 3)
    for _ in range(3):
        server.will_answer(200, [1], Link=f'<{server.url}/things?page=1>; rel="next"')
    with pytest.raises(GitHubError, match="more than 3 pages"):
        list(server.api.list("things"))
    server.will_answer(200, {"a": 1})
    with pytest.raises(GitHubError, match="without a list"):
        list(server.api.list("things"))


def test_an_answer_has_an_end(server: Server) -> None:
    server.will_answer(200, "x" * (limits.ANSWER_BYTES + 1))
    with pytest.raises(GitHubError, match="more than 16,777,216 bytes"):
        server.api.get("things")
    assert server.waits == []


def test_what_is_not_there_is_none_or_gone_already(server: Server) -> None:
    server.will_answer(404, {"message": "Not Found"})
    assert server.api.find("things/1") is None
    server.will_answer(404, {"message": "Not Found"})
    server.api.delete("things/1")
    server.will_answer(403, {"message": "Forbidden"})
    with pytest.raises(GitHubError, match="Forbidden"):
        server.api.find("things/1")


def test_a_change_is_tried_again_and_a_new_thing_is_not(server: Server) -> None:
    server.will_answer(502)
    server.will_answer(429, None, Retry_After="7")
    server.will_answer(200, {"id": 1})
    assert server.api.patch("things/1", {"name": "a"}) == {"id": 1}
    assert server.sent == [b'{"name": "a"}'] * 3
    assert server.waits == [1.0, 7.0]
    server.will_answer(502)
    with pytest.raises(TransientError, match="502"):
        server.api.post_once("things", {"name": "a"})
    assert len(server.asked) == 4


def test_tries_and_waits_have_an_end(server: Server) -> None:
    for _ in range(5):
        server.will_answer(500)
    with pytest.raises(TransientError, match="500"):
        server.api.get("things")
    assert server.waits == [1.0, 2.0, 4.0, 8.0]
    server.will_answer(503, None, Retry_After="901")
    with pytest.raises(TransientError, match="503"):
        server.api.get("things")
    assert len(server.waits) == 4


def test_an_asset_is_sent_with_its_length_even_where_it_is_empty(server: Server) -> None:
    for content in (b"wheel", b""):
        server.will_answer(201, {"id": 1})
        url = f"{server.url}/uploads{{?name,label}}"
        server.api.upload_once(url, "a+b.whl", io.BytesIO(content), len(content), "application/zip")
    assert server.sent == [b"wheel", b""]
    assert server.asked[0].startswith("POST /uploads?name=a%2Bb.whl Bearer ")


def test_an_assets_digest_is_that_of_its_bytes(server: Server) -> None:
    server.answers.append((200, {}, b"wheel"))
    assert server.api.sha256_of("assets/1", 5) == hashlib.sha256(b"wheel").hexdigest()
    server.answers += [(200, {"Content-Length": "9"}, b"wheel"), (200, {}, b"wheel")]
    assert server.api.sha256_of("assets/1", 5) == hashlib.sha256(b"wheel").hexdigest()
    server.answers += [(200, {"Content-Length": "9"}, b"wheel")] * 5
    with pytest.raises(TransientError, match="Connection broken"):
        server.api.sha256_of("assets/1", 5)


@pytest.mark.parametrize(
    ("status", "said"),
    [(302, "it has moved"), (200, "not with JSON"), (401, "Bad credentials")],
)
def test_an_answer_that_can_t_be_used_is_named(server: Server, status: int, said: str) -> None:
    content = b'{"message": "Bad credentials"}' if status == 401 else b"<html>"
    server.answers.append((status, {"Location": "/elsewhere"} if status == 302 else {}, content))
    with pytest.raises(GitHubError, match=said):
        server.api.patch("things/1", {})
    assert len(server.asked) == 1


def test_a_token_is_sent_over_https_or_to_this_machine_only() -> None:
    Api("https://api.example.invalid", TOKEN)
    Api("http://127.0.0.1:1", TOKEN)
    with pytest.raises(UsageError, match="https only"):
        Api("http://api.example.invalid", TOKEN)
    api = Api("https://api.example.invalid", TOKEN)
    for elsewhere in (
        "http://uploads.example.invalid/{?name}",
        "https://uploads.invalid/{?name}",
        "https://api.example.invalid.evil.invalid/",
        "https://api.example.invalid@evil.invalid/",
        "https://api.example.invalid:8443/",
        "https://[::1",
        "",
    ):
        with pytest.raises(GitHubError, match="no token goes there"):
            api.upload_once(elsewhere, "a", io.BytesIO(b"a"), 1, "text/plain")


@pytest.mark.parametrize("status", [400, 401, 302, 502])
@pytest.mark.parametrize("padding", ["", "x" * 480])
def test_no_answer_makes_the_token_seen(server: Server, status: int, padding: str) -> None:
    """Wherever a server repeats it: in the reason phrase, in a message that is cut, in a value."""
    for _ in range(server.api.attempts):
        server.will_answer(
            status, {"message": f"{padding} {TOKEN}"}, reason=f"No {TOKEN}", Location=f"http://x/{TOKEN}"
        )
    with pytest.raises(GitHubError) as caught:
        server.api.patch("things/1", {})
    assert "ghp_" not in f"{caught.value}{caught.value.args}{caught.value.__cause__}"
    server.answers.clear()
    server.will_answer(200, {"html_url": f"https://x/{TOKEN}"})
    assert server.api.get("things/1") == {"html_url": "https://x/***"}


@pytest.mark.parametrize("token", ["ghp_a b", "ghp_a\nX-Other: 1", "ghp_\u2026", "ghp_\x00", "ghp_\u017f"])
def test_a_text_that_no_header_can_hold_is_not_a_token(token: str) -> None:
    with pytest.raises(UsageError, match="GH_TOKEN is not a token") as caught:
        token_from({"GH_TOKEN": token})
    assert "ghp_" not in str(caught.value)
