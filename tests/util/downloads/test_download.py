"""Downloads from a local server that plays the hosts, the broken ones too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.util.downloads.download import download
from builder.util.errors import DownloadError

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(3_000_000)
HALF = len(CONTENT) // 2
ROOT = Path(__file__).resolve().parents[3]


class Host:
    """A download host. Each request is answered by the next of `answers`, and by `serve` after the last."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[dict[str, str]] = []
        self.lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with host.lock:
                    host.requests.append({key.lower(): value for key, value in self.headers.items()})
                    answer = host.answers.pop(0) if host.answers else host.serve
                answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/redist/cuda_nvcc.tar.xz"

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("range") for request in self.requests]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer rightly, with ranges (RFC 9110, 14)."""
        self.send(handler, len(self.content))

    def broken(self, after_bytes: int) -> Callable[[BaseHTTPRequestHandler], None]:
        """Answer rightly, but close the connection after so many bytes of the body."""
        return lambda handler: self.send(handler, after_bytes)

    def send(self, handler: BaseHTTPRequestHandler, most_bytes: int) -> None:
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and handler.headers.get("If-Range", self.etag) == self.etag:
            start = int(wanted[1])
            if start >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.content)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        self.write(handler, self.content[start : start + most_bytes])

    def whole(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer with the whole file, whatever range was asked for."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.content)))
        handler.end_headers()
        self.write(handler, self.content)

    def without_length(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        self.write(handler, self.content)

    def wrong_range(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 7-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - 7))
        handler.end_headers()
        self.write(handler, self.content[7:])

    def stalled(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a part, then nothing for longer than the test's timeout."""
        self.send(handler, HALF)
        time.sleep(0.6)

    def write(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client went away
            handler.wfile.write(data)


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def get(host: Host, cache: Path, sha256: str | None = SHA256, **options: object) -> Path:
    settings = {"backoff_seconds": 0.01, "timeout_seconds": 5.0, **options}
    size_bytes = settings.pop("size_bytes", None)
    return download(host.url, sha256, size_bytes, cache, **settings)  # type: ignore[arg-type]


def left(cache: Path) -> list[str]:
    """What lies in the cache."""
    return sorted(path.name for path in cache.iterdir())


NAME = f"{SHA256[:16]}-cuda_nvcc.tar.xz"


def test_a_file_comes_verified_under_its_final_name(host: Host, cache: Path) -> None:
    path = get(host, cache, size_bytes=len(CONTENT))
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert left(cache) == [NAME]


def test_the_second_time_it_is_from_the_cache(host: Host, cache: Path) -> None:
    assert get(host, cache) == get(host, cache)
    assert len(host.requests) == 1


def test_a_cached_file_that_was_damaged_is_downloaded_again(
    host: Host, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(host, cache).write_bytes(b"damaged")
    assert get(host, cache).read_bytes() == CONTENT
    assert "has a different SHA-256 than when it was downloaded" in capsys.readouterr().err


def test_a_broken_connection_is_resumed_where_it_broke(host: Host, cache: Path) -> None:
    host.answers = [host.broken(HALF), host.broken(500_000)]
    assert get(host, cache, size_bytes=len(CONTENT)).read_bytes() == CONTENT
    assert host.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 500_000}-"]
    assert host.requests[1]["if-range"] == '"one"'
    assert left(cache) == [NAME]


def test_a_connection_that_breaks_often_is_gone_on_with_while_something_comes(
    host: Host, cache: Path
) -> None:
    host.content = random.Random(3).randbytes(8 << 20)
    host.answers = [host.broken(1 << 20)] * 7
    digest = hashlib.sha256(host.content).hexdigest()
    assert get(host, cache, digest, attempts=2).read_bytes() == host.content


def test_what_an_earlier_run_left_is_gone_on_with(host: Host, cache: Path) -> None:
    host.answers = [host.broken(HALF)]
    with pytest.raises(DownloadError) as caught:
        get(host, cache, attempts=1)
    assert "tried 1 times" in caught.value.message
    assert "continues where it stopped" in caught.value.remedy
    assert left(cache) == [f"{NAME}.part", f"{NAME}.part.mark"]
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges == [None, f"bytes={HALF}-"]
    assert left(cache) == [NAME]


def test_a_part_that_is_whole_already_needs_no_bytes(host: Host, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(CONTENT)
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_starts_again(host: Host, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert get(host, cache).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_it_again_from_the_start(host: Host, cache: Path) -> None:
    host.answers = [host.broken(HALF), host.whole]
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_sends_another_range_is_not_believed(
    host: Host, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.answers = [host.broken(HALF), host.wrong_range]
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges == [None, f"bytes={HALF}-", None]
    assert "the server sent a different range" in capsys.readouterr().err


def test_a_file_that_changed_in_between_starts_again(host: Host, cache: Path) -> None:
    host.content, host.etag = OTHER, '"old"'
    host.answers = [host.broken(HALF)]
    with pytest.raises(DownloadError):
        get(host, cache, attempts=1)
    host.content, host.etag = CONTENT, '"new"'
    assert get(host, cache).read_bytes() == CONTENT
    assert host.requests[1]["if-range"] == '"old"'


def test_a_wrong_piece_of_an_earlier_run_is_thrown_away_once(
    host: Host, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(OTHER[:HALF])
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges == [f"bytes={HALF}-", None]
    assert "Starting again from its first byte" in capsys.readouterr().err


def test_a_weak_etag_is_not_used_for_ranges(host: Host, cache: Path) -> None:
    host.etag = 'W/"one"'
    host.answers = [host.broken(HALF)]
    assert get(host, cache).read_bytes() == CONTENT
    assert "if-range" not in host.requests[1]


def test_a_server_in_trouble_is_asked_again(
    host: Host, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.answers = [status(503), status(429, Retry_After="0"), status(500)]
    assert get(host, cache).read_bytes() == CONTENT
    assert len(host.requests) == 4
    assert "the server answered 503 Service Unavailable; trying again" in capsys.readouterr().err


def test_retry_after_is_waited_for(host: Host, cache: Path) -> None:
    host.answers = [status(503, Retry_After="1")]
    start = time.monotonic()
    get(host, cache)
    assert time.monotonic() - start >= 1


def test_a_server_that_stays_in_trouble_is_given_up_on(host: Host, cache: Path) -> None:
    host.answers = [status(503)] * 10
    with pytest.raises(DownloadError, match="answered 503 Service Unavailable; tried 3 times"):
        get(host, cache, attempts=3)
    assert len(host.requests) == 3
    assert left(cache) == []


@pytest.mark.parametrize("code", [404, 403, 401, 410, 400])
def test_a_plain_no_is_not_asked_again(host: Host, cache: Path, code: int) -> None:
    host.answers = [status(code)]
    with pytest.raises(DownloadError, match=f"the server answered {code}"):
        get(host, cache)
    assert len(host.requests) == 1
    assert left(cache) == []


def test_wrong_bytes_are_deleted_and_both_hashes_said(host: Host, cache: Path) -> None:
    host.content = OTHER
    with pytest.raises(DownloadError) as caught:
        get(host, cache)
    assert f"expected {SHA256}, got {hashlib.sha256(OTHER).hexdigest()}" in caught.value.message
    assert left(cache) == []
    assert len(host.requests) == 1


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_an_empty_answer_is_not_a_file(host: Host, cache: Path, sha256: str | None) -> None:
    host.answers = [status(200)]
    with pytest.raises(DownloadError, match=r"cuda_nvcc\.tar\.xz is empty\.\n"):
        get(host, cache, sha256)
    assert left(cache) == []


def test_a_wrong_size_is_refused_before_the_download(host: Host, cache: Path) -> None:
    host.answers = [host.broken(0)]
    with pytest.raises(DownloadError, match="has 3,000,000 bytes, expected 3,000,001"):
        get(host, cache, size_bytes=len(CONTENT) + 1, attempts=1)
    assert left(cache) == []


def test_a_wrong_size_that_the_server_does_not_say_is_refused_after_it(host: Host, cache: Path) -> None:
    host.answers = [host.without_length]
    with pytest.raises(DownloadError, match="has 3,000,000 bytes, expected 2,999,999"):
        get(host, cache, size_bytes=len(CONTENT) - 1)
    assert left(cache) == []


def test_a_server_that_says_no_length_is_fine(host: Host, cache: Path) -> None:
    host.answers = [host.without_length]
    assert get(host, cache).read_bytes() == CONTENT


def test_a_content_length_above_what_comes_is_a_broken_connection(host: Host, cache: Path) -> None:
    host.answers = [host.broken(len(CONTENT) - 1)] * 2
    assert get(host, cache).read_bytes() == CONTENT
    assert host.ranges[:2] == [None, f"bytes={len(CONTENT) - 1}-"]


def test_a_content_length_below_the_pinned_size_is_refused(host: Host, cache: Path) -> None:
    host.content = CONTENT[:-1]
    with pytest.raises(DownloadError, match="has 2,999,999 bytes, expected 3,000,000"):
        get(host, cache, size_bytes=len(CONTENT))


def test_redirects_are_followed(host: Host, cache: Path) -> None:
    host.answers = [status(302, Location="/elsewhere")]
    path = get(host, cache)
    assert path.read_bytes() == CONTENT
    assert path.name == NAME, "named for what was asked for"


def test_redirects_in_circles_end(host: Host, cache: Path) -> None:
    host.answers = [status(302, Location="/again")] * 40
    with pytest.raises(DownloadError, match="can't be downloaded"):
        get(host, cache)


def test_a_stalled_connection_is_given_up_and_resumed(host: Host, cache: Path) -> None:
    host.answers = [host.stalled]
    assert get(host, cache, timeout_seconds=0.2).read_bytes() == CONTENT
    first, second = host.ranges
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= HALF


def test_a_host_that_is_not_there_is_said_with_the_way_out(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError) as caught:
        download(f"http://127.0.0.1:{port}/a", SHA256, None, cache, attempts=2, backoff_seconds=0.01)
    assert "Connection refused" in caught.value.message
    assert "\n" not in caught.value.message
    assert "proxy" in caught.value.remedy


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "nonsense", "http://", "http://[::1", "http://\udcff/a"]
)
def test_an_address_of_another_kind_is_refused(cache: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="can't be downloaded"):
        download(url, SHA256, None, cache)


def test_without_a_hash_it_comes_anew_each_time(host: Host, cache: Path) -> None:
    first = get(host, cache, None)
    host.content, host.etag = OTHER, '"two"'
    assert get(host, cache, None) == first
    assert first.read_bytes() == OTHER


def test_without_a_hash_only_what_the_server_marked_is_resumed(host: Host, cache: Path) -> None:
    host.answers = [host.broken(HALF)]
    assert get(host, cache, None).read_bytes() == CONTENT
    host.etag = ""
    host.answers = [host.broken(HALF)]
    assert get(host, cache, None).read_bytes() == CONTENT
    assert host.ranges == [None, f"bytes={HALF}-", None, None]


def test_several_processes_download_once(host: Host, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(host, cache), range(4)))
    assert set(paths) == {cache / NAME}
    assert len(host.requests) == 1


def test_a_file_that_can_t_fit_is_refused_before_the_download(host: Host, cache: Path) -> None:
    def huge(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**18))
        handler.end_headers()

    host.answers = [huge]
    with pytest.raises(DownloadError) as caught:
        get(host, cache, size_bytes=10**18)
    assert "No space for cuda_nvcc.tar.xz" in caught.value.message
    assert "--cache-dir" in caught.value.remedy


def test_a_disk_that_fills_up_is_said(host: Host, cache: Path) -> None:
    """The kernel's limit on a file's size stands for a full disk."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from builder.util.downloads.download import download\n"
        "from builder.util.errors import DownloadError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: download(sys.argv[1], sys.argv[2], None, Path(sys.argv[3]))\n"
        "except DownloadError as error: print(error); sys.exit(error.exit_code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, host.url, SHA256, str(cache)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == DownloadError.exit_code, ended.stderr
    assert f"No space for cuda_nvcc.tar.xz in {cache}" in ended.stdout
    assert "--cache-dir DIR" in ended.stdout


def test_a_cache_that_can_t_be_written_is_said(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cuda_nvcc\.tar\.xz can't be written to"):
        get(host, tmp_path / "file" / "cache")


def one_byte_at_a_time(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)


def an_endless_header(handler: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(1000):
            handler.wfile.write(b"x")
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(one_byte_at_a_time, "fewer than 65,536 bytes came in 0.3 s"), (an_endless_header, "longer than 0.6 s")],
)
def test_a_server_that_is_too_slow_is_given_up_on(
    host: Host, cache: Path, answer: Callable[[BaseHTTPRequestHandler], None], said: str
) -> None:
    host.answers = [answer] * 2
    start = time.monotonic()
    with pytest.raises(DownloadError, match=said):
        get(host, cache, attempts=2, timeout_seconds=0.3)
    assert time.monotonic() - start < 5


def zeros(length: int | None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 20))

    return answer


@pytest.mark.parametrize("length", [None, 1 << 40])
def test_a_body_without_end_is_given_up_on(host: Host, cache: Path, length: int | None) -> None:
    host.answers = [zeros(length)]
    with pytest.raises(DownloadError, match="has more than 10,000,000 bytes, the limit"):
        get(host, cache, most_bytes=10_000_000)
    assert left(cache) == []


def test_a_part_that_nobody_continues_is_removed(host: Host, cache: Path) -> None:
    cache.mkdir()
    for name in ("abandoned.part", "abandoned.part.mark"):
        (cache / name).write_text("old")
        os.utime(cache / name, (1, 1))
    get(host, cache)
    assert left(cache) == [NAME]


def test_no_password_gets_into_the_cache_or_a_message(
    host: Host, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.answers = [status(503), host.broken(1000)]
    url = host.url.replace("://", "://me:hush@") + "?token=hush"
    with pytest.raises(DownloadError) as caught:
        download(url, None, None, cache, attempts=2, backoff_seconds=0.01)
    assert left(cache) != []
    texts = [path.read_bytes().decode("latin1") + path.name for path in cache.iterdir()]
    assert "hush" not in "".join([str(caught.value), *capsys.readouterr(), *texts])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2.2.0.tar.gz", "v2.2.0.tar.gz"),
        ("/a%20b.zip?token=x", "a_b.zip"),
        ("/..%2f..%2fetc%2fpasswd", "passwd"),
        ("/.hidden", "hidden"),
        ("/", "download"),
    ],
)
def test_names_in_the_cache_are_plain(host: Host, cache: Path, path: str, name: str) -> None:
    url = host.url.removesuffix("/redist/cuda_nvcc.tar.xz") + path
    assert download(url, SHA256, None, cache) == cache / f"{SHA256[:16]}-{name}"
