"""The compiler cache: the real ccache with the system's g++, and real servers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.object_servers import needs_redis, redis_server, web_server
from fakes.tools import program

from builder.compile import ccache
from builder.compile.ccache import CompilerCache, Stats, open_cache
from builder.target.options import BuildOptions

ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    return BuildOptions(cache_dir=tmp_path / "cache", cache_size="100M")


@pytest.fixture
def compile_in(tmp_path: Path, options: BuildOptions) -> Callable[..., Stats]:
    """Compile a.cpp of a folder through a cache, with torch's headers by a link, as a build does."""

    def call(
        tree: Path, site: Path, *, identity: str = "abc", check: bool = True, **changes: object
    ) -> Stats:
        cache = open_cache(replace(options, **changes), identity, tree)  # type: ignore[arg-type]
        (tree / "torch").unlink(missing_ok=True)
        (tree / "torch").symlink_to(site / "torch")
        gxx = shutil.which("g++", path=ENV["PATH"]) or shutil.which("g++")
        assert gxx, "the tests need a g++, as the builds do"
        command = [*cache.launcher, gxx, "-Itorch/include", "-c", "a.cpp", "-o", "a.o", "-MD", "-MF", "a.o.d"]
        env = {**ENV, **cache.env, "HOME": str(tmp_path / "home")}
        done = subprocess.run(command, cwd=tree, env=env, check=False)
        assert (done.returncode == 0) is check
        return cache.stats()

    return call


def _tree(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.cpp").write_text('#include "a.h"\n#include <outer.h>\nint a() { return INNER + OUTER; }\n')
    (folder / "a.h").write_text("#define INNER 1\n")
    return folder


def _site(folder: Path) -> Path:
    (folder / "torch" / "include").mkdir(parents=True)
    (folder / "torch" / "version.py").write_text("__version__ = '2.11.0'\n")
    (folder / "torch" / "include" / "outer.h").write_text("#define OUTER 2\n")
    return folder


def test_a_compile_is_found_again_from_elsewhere(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    first, second = _tree(tmp_path / "first" / "tree"), _tree(tmp_path / "second" / "deeper" / "tree")
    one, other = _site(tmp_path / "env1"), _site(tmp_path / "env2" / "lib")
    assert compile_in(first, one) == Stats(0, 1)
    assert compile_in(first, one) == Stats(1, 0)
    assert compile_in(second, one) == Stats(1, 0)
    assert compile_in(second, other) == Stats(1, 0)
    assert (first / "a.o").read_bytes() == (second / "a.o").read_bytes()
    assert [path.name for path in (tmp_path / "cache" / "ccache").iterdir()] == ["objects"]


def test_the_users_own_settings_do_not_count(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    theirs = tmp_path / "home" / ".config" / "ccache" / "ccache.conf"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("disable = true\n")
    tree = _tree(tmp_path / "a $tree")
    (tree / "ccache.conf").write_text("disable = true\n")
    assert compile_in(tree, _site(tmp_path / "site")) == Stats(0, 1)


def test_what_changes_the_object_is_a_miss(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    tree, site = _tree(tmp_path / "tree"), _site(tmp_path / "site")
    assert compile_in(tree, site) == Stats(0, 1)
    (site / "torch" / "include" / "outer.h").write_text("#define OUTER 3\n")
    assert compile_in(tree, site) == Stats(0, 1)
    (tree / "a.h").write_text("#define INNER 4\n")
    assert compile_in(tree, site) == Stats(0, 1)
    assert compile_in(tree, site, identity="another compiler") == Stats(0, 1)
    assert compile_in(tree, site) == Stats(1, 0)


def test_a_failed_compile_fails_and_is_not_kept(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    tree, site = _tree(tmp_path / "tree"), _site(tmp_path / "site")
    (tree / "a.cpp").write_text("#error trouble\n")
    for _ in range(2):
        assert str(compile_in(tree, site, check=False)) == "0 hits, 0 misses"


def test_a_damaged_object_is_a_miss_and_is_made_anew(
    tmp_path: Path, compile_in: Callable[..., Stats]
) -> None:
    tree, site = _tree(tmp_path / "tree"), _site(tmp_path / "site")
    compile_in(tree, site)
    whole = (tree / "a.o").read_bytes()
    for path in (tmp_path / "cache" / "ccache" / "objects").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    assert compile_in(tree, site).hits == 0
    assert (tree / "a.o").read_bytes() == whole
    assert compile_in(tree, site) == Stats(1, 0)


def test_a_cache_that_cannot_be_used_is_done_without(
    tmp_path: Path,
    options: BuildOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert open_cache(replace(options, cache=False), "abc", tmp_path) == CompilerCache()
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").write_text("a file where a folder belongs")
    assert open_cache(options, "abc", tmp_path) == CompilerCache()
    assert "compiling without it" in capsys.readouterr().err
    broken = program(tmp_path / "ccache", "#!/bin/sh\nexit 3\n")
    monkeypatch.setattr("builder.compile.ccache.sysconfig.get_path", lambda _: str(broken.parent))
    assert open_cache(replace(options, cache_dir=tmp_path / "other"), "abc", tmp_path) == CompilerCache()
    assert "compiling without it" in capsys.readouterr().err


# Shared with other machines.


def _two_machines(
    tmp_path: Path, compile_in: Callable[..., Stats], remote: str, **options: object
) -> list[Stats]:
    """Compile on two machines that share a remote cache; returns what each one's cache did."""
    stats = []
    for name in ("one", "two"):
        tree, site = _tree(tmp_path / name / "tree"), _site(tmp_path / name / "site")
        asked = {"cache_dir": tmp_path / name / "cache", "cache_remote": remote, **options}
        stats.append(compile_in(tree, site, **asked))
    return stats


def test_a_folder_is_shared(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    url = f"file://{tmp_path}/shared"
    assert _two_machines(tmp_path, compile_in, url) == [
        Stats(0, 1, remote=url),
        Stats(1, 0, remote_hits=1, remote=url),
    ]
    # What came from there is not used without it.
    stats = compile_in(
        tmp_path / "two" / "tree", tmp_path / "two" / "site", cache_dir=tmp_path / "two" / "cache"
    )
    assert stats == Stats(0, 1)
    url += "-only-read"
    _two_machines(tmp_path / "b", compile_in, url, cache_remote_read_only=True)
    assert not (tmp_path / "shared-only-read").exists()


@needs_redis
@pytest.mark.parametrize("password", ["", "a word"])
def test_a_redis_server_is_shared(tmp_path: Path, compile_in: Callable[..., Stats], password: str) -> None:
    with redis_server(tmp_path / "redis", password) as url:
        stats = _two_machines(tmp_path, compile_in, f"{url}/0")
    assert [(each.hits, each.remote_hits, each.misses) for each in stats] == [(0, 0, 1), (1, 1, 0)]
    assert "word" not in stats[0].remote
    assert str(stats[1]) == f"1 hit (1 from {stats[1].remote}), 0 misses"
    assert [oct(path.stat().st_mode) for path in tmp_path.rglob("ccache.conf")] == ["0o100600"] * 2


@pytest.mark.parametrize("damaged", [False, True])
def test_an_http_server_is_shared(tmp_path: Path, compile_in: Callable[..., Stats], damaged: bool) -> None:
    with web_server(damaged=damaged) as url:
        stats = _two_machines(tmp_path, compile_in, f"{url}/cache")
    hits = 0 if damaged else 1
    assert [(each.hits, each.remote_hits) for each in stats] == [(0, 0), (hits, hits)]


@pytest.mark.parametrize("scheme", ["redis", "http"])
def test_a_server_that_does_not_answer_costs_no_build(
    tmp_path: Path,
    compile_in: Callable[..., Stats],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scheme: str,
) -> None:
    monkeypatch.setattr(ccache, "_REMOTE", ccache._REMOTE.replace("=10000", "=300").replace("=2000", "=300"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        stats = _two_machines(tmp_path, compile_in, remote)
    assert [(each.hits, each.misses) for each in stats] == [(0, 1), (0, 1)]
    assert time.monotonic() - began < 20
    assert f"remote compiler cache {remote}: 1 " in capsys.readouterr().err
