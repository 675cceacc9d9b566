"""A build's arguments and environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.target.options import BuildOptions, parse_build_options
from builder.util.errors import UsageError
from builder.util.files import ROOT

HOME = {"HOME": "/home/someone"}


def parse(*arguments: str, **environ: str) -> BuildOptions:
    return parse_build_options(arguments, {**HOME, **environ})


def test_nothing_asked_for_is_the_pinned_release_with_a_cache() -> None:
    assert parse() == BuildOptions(
        cache_dir=Path("/home/someone/.cache/sageattention-build"), wheelhouse=ROOT / "wheelhouse"
    )


def test_everything_can_be_asked_for() -> None:
    arguments = (
        "--source fork --cuda-home /opt/cuda --allow-cuda-minor --arch 8.9;12.0 --jobs 3 "
        "--force --no-cache --cache-dir cache --cache-size 500M --wheelhouse out "
        "--torch-index https://example.org/t --keep-build --verbose"
    )
    assert parse(*arguments.split()) == BuildOptions(
        source=str(Path.cwd() / "fork"),
        cuda_home=Path("/opt/cuda"),
        allow_cuda_minor=True,
        arch="8.9;12.0",
        jobs=3,
        force=True,
        cache=False,
        cache_dir=Path.cwd() / "cache",
        cache_size="500M",
        wheelhouse=Path.cwd() / "out",
        torch_index="https://example.org/t",
        keep_build=True,
        verbose=True,
    )


def test_cuda_home_comes_from_the_environment_unless_given() -> None:
    assert parse(CUDA_HOME="/usr/local/cuda").cuda_home == Path("/usr/local/cuda")
    assert parse(CUDA_HOME="").cuda_home is None
    assert parse("--cuda-home", "/opt/cuda", CUDA_HOME="/usr/local/cuda").cuda_home == Path("/opt/cuda")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("redis://:p@cache.example:6379/2", None),
        ("http://me:p@127.0.0.1:8080/a/b?token=T", None),
        ("file:/shared/a%20folder", "file:///shared/a%20folder"),
        ("file://localhost/shared", "file:///shared"),
    ],
)
def test_a_remote_cache_is_given_by_option_or_environment(given: str, kept: str | None) -> None:
    options = parse("--cache-remote", given)
    assert options.cache_remote == (kept or given)
    assert given not in repr(options), "it may hold a password"
    assert parse(SAGEATTENTION_BUILD_CACHE_REMOTE=given).cache_remote == (kept or given)
    assert parse("--no-cache-remote", SAGEATTENTION_BUILD_CACHE_REMOTE=given).cache_remote == ""
    assert parse(SAGEATTENTION_BUILD_CACHE_REMOTE="").cache_remote == ""


@pytest.mark.parametrize("given", ["s3cret", "redis:s3cret", "redis://", "ftp://h/s3cret", "file:s3cret"])
def test_a_remote_cache_that_cannot_be_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(UsageError, match="--cache-remote") as caught:
        parse("--cache-remote", given)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UsageError, match="SAGEATTENTION_BUILD_CACHE_REMOTE") as caught:
        parse(SAGEATTENTION_BUILD_CACHE_REMOTE=given)
    assert "s3cret" not in str(caught.value)


def test_a_remote_cache_can_be_read_alone() -> None:
    assert not parse().cache_remote_read_only
    assert parse("--cache-remote-read-only").cache_remote_read_only
    assert parse(SAGEATTENTION_BUILD_CACHE_READ_ONLY="1").cache_remote_read_only


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SAGEATTENTION_BUILD_CACHE": "/big/cache", "XDG_CACHE_HOME": "/xdg"}, "/big/cache"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/sageattention-build"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/sageattention-build"),
        ({"XDG_CACHE_HOME": ""}, "/home/someone/.cache/sageattention-build"),
        ({"SAGEATTENTION_BUILD_CACHE": "here"}, f"{Path.cwd()}/here"),
    ],
)
def test_the_caches_place(environ: dict[str, str], expected: str) -> None:
    assert parse(**environ).cache_dir == Path(expected)
    assert parse("--cache-dir", "/own", **environ).cache_dir == Path("/own")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "Argument --jobs: '0' is not a number of processes from 1 to 9999"),
        (["--arch", ""], "Argument --arch: it is empty"),
        (["--cuda-home", ""], "Argument --cuda-home: it is empty"),
        (["--cache-size", "10"], "Argument --cache-size: '10' is not a size such as 10G"),
        (["--cache-size", "0G"], "Argument --cache-size: '0G' is not a size"),
        (["--verbos"], "Unrecognized arguments: --verbos"),
        (["--arch=8.9", "12.0"], "Unrecognized arguments: 12.0"),
    ],
)
def test_what_can_t_be_used_is_refused_with_the_way_to_help(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert said in caught.value.message
    assert caught.value.remedy == "See nox -s build-TARGET -- --help."
