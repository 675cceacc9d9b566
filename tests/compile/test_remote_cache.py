"""Compiles of two machines share a remote cache, whatever it does: the real ccache with g++."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from object_servers import WebObjects, needs_redis, raw_server, redis_server, web_server

from builder.compile.compiler_cache import Stats, use_ccache
from builder.compile.remote_cache import RemoteCache

ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
SECONDS = 0.3  # to wait for a server
KEY = bytes(20)


class Machine:
    """A folder with all that a machine has: sources, headers, a compiler cache."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree, self.headers = place / "tree", place / "env" / "include"
        self.headers.mkdir(parents=True)
        self.tree.mkdir()
        (self.headers / "outer.h").write_text("#define OUTER 2\n")
        for name in "ab":
            (self.tree / f"{name}.cpp").write_text(f"#include <outer.h>\nint {name}() {{ return OUTER; }}\n")

    def compile(self, remote: RemoteCache | None) -> tuple[Stats, list[bytes]]:
        """Compile both sources; returns what the cache did, and the objects."""
        with use_ccache(
            self.place / "cache",
            "100M",
            identity="abc",
            tree=self.tree,
            aliases={self.headers: "headers"},
            remote=remote,
        ) as cache:
            for name in "ab":
                command = ["g++", f"-I{self.headers}", "-c", f"{name}.cpp", "-o", f"{name}.o"]
                subprocess.run(
                    [*cache.launcher, *command], cwd=self.tree, env={**ENV, **cache.env}, check=True
                )
            return cache.stats(), [(self.tree / f"{name}.o").read_bytes() for name in "ab"]


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "one"), Machine(tmp_path / "another" / ("deeper" * 30))


@pytest.fixture
def expected(tmp_path: Path) -> list[bytes]:
    """The objects without any cache."""
    machine = Machine(tmp_path / "plain")
    for name in "ab":
        command = ["g++", "-I../env/include", "-c", f"{name}.cpp", "-o", f"{name}.o"]
        subprocess.run(command, cwd=machine.tree, env=ENV, check=True)
    return [(machine.tree / f"{name}.o").read_bytes() for name in "ab"]


def share(machines: tuple[Machine, Machine], url: str, expected: list[bytes]) -> None:
    one, other = machines
    remote = RemoteCache(url, "secret")
    assert one.compile(remote) == (Stats(0, 2, remote=remote.url), expected)
    found = RemoteCache(url, "secret")
    assert other.compile(found) == (Stats(2, 0, remote_hits=2, remote=remote.url), expected)
    assert not remote.troubles() + found.troubles()


@needs_redis
def test_two_machines_share_a_redis_server(
    tmp_path: Path, machines: tuple[Machine, Machine], expected: list[bytes]
) -> None:
    with redis_server(tmp_path / "redis", "pass word") as url:
        share(machines, url, expected)


def test_two_machines_share_a_web_server(machines: tuple[Machine, Machine], expected: list[bytes]) -> None:
    with web_server(WebObjects()) as url:
        share(machines, f"{url}/cache", expected)


def test_two_machines_share_a_folder(
    tmp_path: Path, machines: tuple[Machine, Machine], expected: list[bytes]
) -> None:
    (tmp_path / "shared").mkdir()
    share(machines, f"file://{tmp_path}/shared", expected)


def test_a_reader_stores_nothing(machines: tuple[Machine, Machine], expected: list[bytes]) -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        assert machines[0].compile(RemoteCache(url, read_only=True))[0].misses == 2
        assert not kept.objects
        assert RemoteCache(url, read_only=True).put(KEY, b"value") is False
        machines[0].compile(RemoteCache(url))
        assert not kept.objects  # all are found in the machine's own cache
        machines[1].compile(RemoteCache(url))
        assert len(kept.objects) == 4  # a manifest and an object of each
        assert machines[0].compile(RemoteCache(url, read_only=True)) == (Stats(2, 0, remote=url), expected)


def test_a_build_without_it_has_nothing_of_it(
    machines: tuple[Machine, Machine], expected: list[bytes]
) -> None:
    with web_server(WebObjects()) as url:
        machines[0].compile(RemoteCache(url))
        assert machines[1].compile(RemoteCache(url))[0].remote_hits == 2
    assert machines[1].compile(None) == (Stats(0, 2), expected)
    assert machines[1].compile(None) == (Stats(2, 0), expected)


def test_its_password_is_in_no_file_and_in_no_setting(tmp_path: Path) -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        remote = RemoteCache(url.replace("://", "://me:s3cret@") + "/?token=s3cret", "s3cret")
        with use_ccache(tmp_path / "cache", "1G", identity="abc", tree=tmp_path, remote=remote) as cache:
            assert cache.launcher
            assert not [
                path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text()
            ]
            assert "s3cret" not in repr((cache.env, cache.stats(), remote.url))


# Servers that lie.


def _swapped(kept: WebObjects) -> Callable[[str, bytes], bytes]:
    """What another path of the same size is for: an object for an object, whose names differ alone."""

    def lie(path: str, body: bytes) -> bytes:
        same = [other for at, other in kept.objects.items() if at != path and abs(len(other) - len(body)) < 9]
        return same[0] if same else b""

    return lie


LIES: dict[str, Callable[[WebObjects], Callable[[str, bytes], bytes]]] = {
    "garbage": lambda kept: lambda path, body: b"<html>Welcome to this hotel</html>",
    "nothing": lambda kept: lambda path, body: b"",
    "cut": lambda kept: lambda path, body: body[:-20],
    "a bit": lambda kept: lambda path, body: body[:-40] + bytes([body[-40] ^ 1]) + body[-39:],
    "without its signature": lambda kept: lambda path, body: bytes(32) + body[32:],
    "another's": _swapped,
}


@pytest.mark.parametrize("lie", LIES)
def test_wrong_content_changes_nothing(
    machines: tuple[Machine, Machine], expected: list[bytes], lie: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        machines[0].compile(RemoteCache(url, "secret"))
        kept.lie = LIES[lie](kept)
        assert machines[1].compile(RemoteCache(url, "secret")) == (Stats(0, 2, remote=url), expected)
        assert machines[1].compile(RemoteCache(url, "secret")) == (Stats(2, 0, remote=url), expected)
    if lie != "nothing":
        assert "an object is not the one that was stored" in capsys.readouterr().err


def test_who_does_not_know_the_secret_adds_nothing(
    machines: tuple[Machine, Machine], expected: list[bytes]
) -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        machines[0].compile(RemoteCache(url, "another secret"))
        assert machines[1].compile(RemoteCache(url, "secret")) == (Stats(0, 2, remote=url), expected)
    assert len(kept.objects) == 8


# Servers that don't answer.


def drips(beginning: bytes) -> Callable[[socket.socket], None]:
    def talk(link: socket.socket) -> None:
        link.recv(1000)
        link.sendall(beginning)
        while True:
            link.sendall(b"x")
            time.sleep(SECONDS / 5)

    return talk


@pytest.mark.parametrize(
    ("scheme", "talk"),
    [
        ("http", drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")),
        ("http", lambda _: time.sleep(30)),
        ("redis", drips(b"+OK\r\n$1000000\r\n")),
        ("redis", lambda _: time.sleep(30)),
    ],
)
def test_a_server_that_hangs_is_left_alone(
    machines: tuple[Machine, Machine],
    expected: list[bytes],
    scheme: str,
    talk: Callable[[socket.socket], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with raw_server(talk) as place:
        begin = time.monotonic()
        stats, objects = machines[0].compile(RemoteCache(f"{scheme}://me:s3cret@{place}", seconds=SECONDS))
        assert time.monotonic() - begin < 5
    assert (stats, objects) == (Stats(0, 2, remote=f"{scheme}://{place}"), expected)
    said = capsys.readouterr().err
    assert "no answer in time" in said or "timed out" in said or "Timeout" in said
    assert "s3cret" not in said


def test_an_absent_server_is_done_without(
    machines: tuple[Machine, Machine], expected: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"redis://127.0.0.1:{port}", f"http://127.0.0.1:{port}", "file:///not/mounted"):
        shutil.rmtree(machines[0].place / "cache", ignore_errors=True)
        assert machines[0].compile(RemoteCache(url)) == (Stats(0, 2, remote=url), expected)
        assert f"{url} is not of use" in capsys.readouterr().err


def test_a_server_that_keeps_failing_is_asked_no_more() -> None:
    kept = WebObjects()
    kept.status = 503
    with web_server(kept) as url:
        remote = RemoteCache(url)
        for _ in range(20):
            assert remote.get(KEY) is None
    assert len(kept.authorizations) == 5
    assert remote.troubles() == ["it answers with status 503 (5 times)"]


def test_a_server_that_comes_too_late_counts_as_trouble() -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        RemoteCache(url).put(KEY, b"value")

        def wait(path: str, body: bytes) -> bytes:
            time.sleep(SECONDS)
            return body

        kept.lie = wait
        remote = RemoteCache(url, seconds=SECONDS * 0.9)
        remote.get(KEY)
        assert remote.troubles()
