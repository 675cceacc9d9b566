"""Downloads: retried, resumed, verified, from a local server that fails as servers do; and archives."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.util import http
from builder.util.errors import DownloadError

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A server of one file.

    Attributes:
        faults: What to do in place of the next answers: a status, or `cut` to end after half of the bytes.
        ranges: The `Range` header of each request, "" without one.
    """

    url: str = ""
    content: bytes = CONTENT
    faults: list[int | str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(http, "_CHUNK_BYTES", 1024)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range", ""))
            fault = state.faults.pop(0) if state.faults else 200
            start = int(state.ranges[-1][len("bytes=") : -1] or 0)
            body = state.content[start:]
            if fault == 302:
                self.send_response(302)
                self.send_header("Location", state.url + "/elsewhere")
            elif isinstance(fault, int) and fault != 200:
                self.send_response(fault)
            else:
                self.send_response(416 if start and not body else 206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/file.tar.gz"
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield state
        running.shutdown()


def test_what_may_pass_is_tried_three_times(server: Server) -> None:
    server.faults = [503, "cut"]
    assert http.get(server.url) == CONTENT
    server.faults = [503, 429, 500]
    with pytest.raises(http.StatusError, match="the server answered 500"):
        http.get(server.url)
    server.faults = [404, 404]
    with pytest.raises(http.StatusError, match="404 Not Found"):
        http.get(server.url)
    assert len(server.faults) == 1


def test_a_dead_address_ends_soon_and_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0)
    with pytest.raises(DownloadError, match="Connection refused; tried 3 times") as caught:
        http.get("http://me:secret@127.0.0.1:9/a?token=1")
    assert "http://127.0.0.1:9/a" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(DownloadError, match="can't be downloaded"):
        http.get("no-address")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(DownloadError, match=r"/nowhere\.pem; tried 3 times"):
        http.get("https://127.0.0.1:9")


def test_a_broken_download_is_resumed_and_verified(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "file"
    server.faults = ["cut"]
    http.download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={len(CONTENT) // 2}-"]
    http.download(server.url, path, SHA256)
    assert len(server.ranges) == 2  # it is there


@pytest.mark.parametrize("part", [CONTENT, b"damaged", CONTENT + b"more"])
def test_an_earlier_part_is_used_if_it_is_right(server: Server, tmp_path: Path, part: bytes) -> None:
    path = tmp_path / "file"
    path.with_name("file.part").write_bytes(part)
    path.write_bytes(b"damaged")
    http.download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert not path.with_name("file.part").exists()


def test_without_a_digest_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name("file.part").write_bytes(b"of another file")
    server.faults = ["cut"]
    http.download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["", ""]


def test_a_different_file_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="has a different SHA-256"):
        http.download(server.url, tmp_path / "file", "0" * 64)
    assert not (tmp_path / "file").exists()


def test_a_folder_that_cannot_be_written_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="can't be written"):
        http.download(server.url, tmp_path / "file" / "below")


FILES = {"top/a.txt": b"hello\n", "top/sub/run.sh": b"#!/bin/sh\n"}


def make_tar(path: Path, files: dict[str, bytes] = FILES, comment: str = "") -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:]}", pax_headers={"comment": comment}) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o775 if name.endswith(".sh") else 0o664
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zip"])
def test_every_kind_of_archive_is_unpacked_without_its_top_folder(tmp_path: Path, name: str) -> None:
    into, commit = tmp_path / "into", "0123456789" * 4
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, content in FILES.items():
                archive.writestr(path, content)
        assert http.unpack(tmp_path / name, into) == ""
    else:
        assert http.unpack(make_tar(tmp_path / name, comment=commit), into) == commit
        assert (into / "sub" / "run.sh").stat().st_mode & stat.S_IXUSR
    assert {str(path.relative_to(into)) for path in into.rglob("*")} == {"a.txt", "sub", "sub/run.sh"}
    assert (into / "a.txt").read_bytes() == b"hello\n"
    assert not (into / "a.txt").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"", "b/c.txt": b""}, "a.gz has 2 entries at its top, not one folder"),
        ({"a.txt": b""}, "a.gz has 1 entries at its top"),
        ({"top/../../evil": b""}, "a.gz can't be unpacked"),
        (b"<html>Log in", "a.gz can't be unpacked: file could not be opened successfully."),
        (b"PK\x03\x04", "a.gz can't be unpacked: "),
        (None, "a.gz can't be unpacked: "),  # half of an archive
    ],
)
def test_what_is_no_whole_archive_of_one_folder_leaves_nothing(
    tmp_path: Path, files: dict[str, bytes] | bytes | None, message: str
) -> None:
    archive = make_tar(tmp_path / "a.gz", files if isinstance(files, dict) else FILES)
    if not isinstance(files, dict):
        whole = archive.read_bytes()
        archive.write_bytes(whole[: len(whole) // 2] if files is None else files)
    with pytest.raises(DownloadError, match=message):
        http.unpack(archive, tmp_path / "in" / "to")
    assert not list((tmp_path / "in").iterdir())
