"""A build's options: its arguments and the environment, read once and checked."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from builder.util.arguments import Parser
from builder.util.files import ROOT

_REMOTE, _READ_ONLY = "SAGEATTENTION_BUILD_CACHE_REMOTE", "SAGEATTENTION_BUILD_CACHE_READ_ONLY"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of one build, which `--help` explains; no later step reads the environment."""

    source: str | None = None
    cuda_home: Path | None = None
    allow_cuda_minor: bool = False
    arch: str | None = None
    jobs: int | None = None
    check: bool = False
    force: bool = False
    cache: bool = True
    cache_dir: Path
    cache_size: str = "10G"
    cache_remote: str = field(default="", repr=False)  # may hold a password
    cache_remote_read_only: bool = False
    wheelhouse: Path = ROOT / "wheelhouse"
    torch_index: str | None = None
    machine_root: Path | None = None
    keep_build: bool = False
    verbose: bool = False


def parse_build_options(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    prog: str = "nox -s build-TARGET --",
    parents: Sequence[Parser] = (),
) -> BuildOptions:
    """Return a build's options, from its arguments and the environment.

    `prog` and `parents` (parsers of further arguments, which were read already) are for `--help`.
    """
    values = vars(_parser(environ, prog, parents).parse_args(list(arguments)))
    return BuildOptions(
        **{name: values[name] for name in BuildOptions.__dataclass_fields__ if name in values}
    )


def _parser(environ: Mapping[str, str], prog: str, parents: Sequence[Parser]) -> Parser:
    parser = Parser(
        prog=prog,
        description="Build, check and store the wheels of one target.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # the defaults are those of BuildOptions
        parents=list(parents),
    )

    # Both add to the group that was begun last.
    def value(name: str, kind: Callable[[str], object], metavar: str, text: str) -> None:
        group.add_argument(name, type=kind, metavar=metavar, help=text)

    def flag(name: str, text: str) -> None:
        group.add_argument(name, action="store_true", help=text)

    group = parser.add_argument_group("what to build")
    value("--source", _source, "PLACE", "a folder (only read), .tar.* or .zip file, or address")
    value("--arch", _not_empty, "LIST", '"8.9;12.0", all, or local (default: local; all without a GPU)')
    group = parser.add_argument_group("tools")
    value("--cuda-home", _path, "DIR", "CUDA toolkit (default: $CUDA_HOME, or one of packages)")
    flag("--allow-cuda-minor", "accept a CUDA toolkit of a different minor version")
    value("--torch-index", _not_empty, "URL", "install torch from this package index")
    value("--machine-root", _path, "DIR", "system in which to import another machine's wheel")
    group = parser.add_argument_group("work")
    value("--jobs", _jobs, "N", "compiler processes at once (default: as cores and free memory allow)")
    flag("--check", "only check tools, folders, disks, source and patches, and print the plan")
    flag("--force", "build even if the wheels are up to date")
    flag("--keep-build", "keep the build's scratch folder")
    flag("--verbose", "show each command and its output, the compiler's too")
    group = parser.add_argument_group("places")
    value("--wheelhouse", _path, "DIR", "folder for the wheels (default: wheelhouse/)")
    where = "$SAGEATTENTION_BUILD_CACHE, or a folder in ~/.cache"
    value("--cache-dir", _path, "DIR", f"downloads, toolchains and objects (default: {where})")
    value("--cache-size", _cache_size, "SIZE", "limit of the compiler cache (default: 10G)")
    value("--cache-remote", _remote, "URL", f"share objects by Redis, HTTP or a folder (default: ${_REMOTE})")
    flag("--cache-remote-read-only", f"take objects from there and store none; also if ${_READ_ONLY} is set")
    text = "use no object that came from another machine, now or earlier; for a release"
    group.add_argument("--no-cache-remote", action="store_const", const="", dest="cache_remote", help=text)
    text = "compile without the compiler cache"
    group.add_argument("--no-cache", action="store_false", dest="cache", help=text)
    parser.set_defaults(
        cuda_home=environ.get("CUDA_HOME") or None,
        cache_dir=str(_default_cache_dir(environ)),
        cache_remote=environ.get(_REMOTE, ""),
        cache_remote_read_only=bool(environ.get(_READ_ONLY)),
    )
    return parser


def _default_cache_dir(environ: Mapping[str, str]) -> Path:
    if own := environ.get("SAGEATTENTION_BUILD_CACHE", ""):
        return Path(own)
    # The XDG Base Directory Specification says to ignore a relative XDG_CACHE_HOME.
    xdg = Path(environ.get("XDG_CACHE_HOME", ""))
    cache = xdg if xdg.is_absolute() else Path(environ.get("HOME") or Path.home(), ".cache")
    return cache / "sageattention-build"


def is_url(text: str) -> bool:
    """Return whether `--source` names an address and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _source(text: str) -> str:
    return text if is_url(text) else str(_path(text))


def _path(text: str) -> Path:
    return Path.cwd() / os.path.expanduser(_not_empty(text))  # noqa: PTH111 - Path's fails without such a user


def _remote(text: str) -> str:
    """Check the address of a remote compiler cache; the error does not repeat it, since it may be secret."""
    scheme, _, rest = text.partition(":")
    if scheme == "file" and rest.startswith("/"):
        return "file:///" + rest.removeprefix("//localhost").lstrip("/")
    if text and (scheme not in {"redis", "rediss", "http", "https"} or not urlsplit(text).netloc):
        raise argparse.ArgumentTypeError(
            f"this, or ${_REMOTE}, is no address such as redis://HOST/0, https://HOST/FOLDER, file:/FOLDER"
        )
    return text


def _jobs(text: str) -> int:
    if re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes from 1 to 9999")
    return int(text)


def _cache_size(text: str) -> str:
    size = text.strip().upper().removesuffix("B")
    if re.fullmatch(r"[1-9]\d*[KMGT]", size) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 10G or 500M")
    return size
