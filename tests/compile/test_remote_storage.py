"""Storages for compiled objects: a real Redis server, an HTTP server, a folder, and bad ones of each."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from object_servers import WebObjects, needs_redis, raw_server, redis_server, web_server

from builder.compile.remote_storage import open_storage
from builder.util.limits import REMOTE_OBJECT_BYTES

NAME = "ab12"
DATA = bytes(range(256)) * 5000 + b"\r\n"


def keeps_objects(url: str) -> None:
    storage = open_storage(url)
    assert storage.get(NAME) is None
    storage.put(NAME, b"older")
    storage.put(NAME, DATA)
    assert open_storage(url).get(NAME) == DATA
    assert storage.get("ab13") is None


@needs_redis
@pytest.mark.parametrize(("password", "database"), [("", ""), ("", "/3"), ("p:w /@%'", "/3")])
def test_a_redis_server_keeps_objects(tmp_path: Path, password: str, database: str) -> None:
    with redis_server(tmp_path, password) as url:
        keeps_objects(url + database)


@needs_redis
@pytest.mark.parametrize("user", ["", "wrong@", "default:wrong@"])
def test_a_redis_server_refuses_who_does_not_know_the_password(tmp_path: Path, user: str) -> None:
    with redis_server(tmp_path, "secret") as url:
        host = url.rpartition("@")[2]
        with pytest.raises(ConnectionError, match=r"WRONGPASS|NOAUTH"):
            open_storage(f"redis://{user}{host}").get(NAME)
        open_storage(f"redis://secret@{host}").put(NAME, DATA)


@needs_redis
def test_a_full_redis_server_says_so(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        host, _, port = url.removeprefix("redis://").partition(":")
        with socket.create_connection((host, int(port))) as link:
            link.sendall(b"CONFIG SET maxmemory 1\r\n")
            assert link.recv(100) == b"+OK\r\n"
        with pytest.raises(ConnectionError, match="OOM"):
            open_storage(url).put(NAME, DATA)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"$5\r\nab",
        b"$-2\r\n",
        b"$abc\r\n",
        b"$%d\r\n" % (REMOTE_OBJECT_BYTES + 1),
        b"$999999999999999\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"-PASSWORD is secret\r\n",
        b"x" * 5000,
    ],
)
def test_what_is_not_an_object_is_refused(answer: bytes) -> None:
    def talk(link: socket.socket) -> None:
        link.recv(1000)
        link.sendall(answer)

    with (
        raw_server(talk) as place,
        pytest.raises((ConnectionError, OSError), match=r"what is not an object|reset"),
    ):
        open_storage(f"redis://secret@{place}").get(NAME)


def test_a_web_server_keeps_objects() -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        keeps_objects(f"{url}/some/folder/?token=T")
    assert list(kept.objects) == [f"/some/folder/{NAME}?token=T"]


def test_a_web_server_gets_the_password() -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        open_storage(url.replace("://", "://me:secret@")).get(NAME)
    assert kept.authorizations == ["Basic bWU6c2VjcmV0"]


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_web_server_that_refuses_is_not_one_without_the_object(status: int) -> None:
    kept = WebObjects()
    kept.status = status
    with web_server(kept) as url:
        with pytest.raises(ConnectionError, match=str(status)):
            open_storage(url).get(NAME)
        with pytest.raises(ConnectionError, match=str(status)):
            open_storage(url).put(NAME, DATA)


def test_a_folder_keeps_objects(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    keeps_objects(f"file://{tmp_path}/a%20folder")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [NAME]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/not-mounted")
    with pytest.raises(FileNotFoundError):
        storage.get(NAME)
    with pytest.raises(FileNotFoundError):
        storage.put(NAME, DATA)
    assert not list(tmp_path.iterdir())
