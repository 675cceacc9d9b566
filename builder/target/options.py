"""A build's options: its arguments and the environment, read once and checked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from builder.util.arguments import Parser
from builder.util.files import ROOT


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
    what = parser.add_argument_group("what to build")
    what.add_argument(
        "--source", type=_source, metavar="PLACE", help="folder, .tar.* or .zip file, or address, to build"
    )
    what.add_argument(
        "--arch", type=_not_empty, metavar="LIST", help='"8.9;12.0", all, or local (the default, or all)'
    )
    tools = parser.add_argument_group("tools")
    cuda_home = environ.get("CUDA_HOME") or None
    tools.add_argument(
        "--cuda-home", type=_path, default=cuda_home, metavar="DIR", help="CUDA toolkit (default: $CUDA_HOME)"
    )
    tools.add_argument(
        "--allow-cuda-minor", action="store_true", help="accept a CUDA toolkit of a different minor version"
    )
    tools.add_argument("--torch-index", type=_not_empty, metavar="URL", help="package index for torch")
    tools.add_argument(
        "--machine-root", type=_path, metavar="DIR", help="system in which to import another machine's wheel"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--jobs", type=_jobs, metavar="N", help="compiler processes at once (default: as many as fit)"
    )
    work.add_argument(
        "--check", action="store_true", help="only check tools, folders, disks and source, and print the plan"
    )
    work.add_argument("--force", action="store_true", help="build even if the wheels are up to date")
    work.add_argument("--keep-build", action="store_true", help="keep the build's scratch folder")
    work.add_argument("--verbose", action="store_true", help="show each command and its output")
    places = parser.add_argument_group("places")
    places.add_argument(
        "--wheelhouse", type=_path, metavar="DIR", help="folder for the wheels (default: wheelhouse/)"
    )
    places.add_argument(
        "--cache-dir",
        type=_path,
        default=str(_default_cache_dir(environ)),
        metavar="DIR",
        help="folder for downloads, toolchains and objects (default: $SAGEATTENTION_BUILD_CACHE, or one in "
        "$XDG_CACHE_HOME or ~/.cache)",
    )
    places.add_argument(
        "--cache-size", type=_cache_size, metavar="SIZE", help="limit of the compiler cache (default: 10G)"
    )
    places.add_argument(
        "--cache-remote",
        type=_remote,
        default=environ.get("SAGEATTENTION_BUILD_CACHE_REMOTE", ""),
        metavar="URL",
        help="share objects through a Redis or HTTP server, or file:/FOLDER "
        "(default: $SAGEATTENTION_BUILD_CACHE_REMOTE)",
    )
    places.add_argument(
        "--cache-remote-read-only",
        action="store_true",
        default=bool(environ.get("SAGEATTENTION_BUILD_CACHE_READ_ONLY")),
        help="take objects from there and store none; also if $SAGEATTENTION_BUILD_CACHE_READ_ONLY is set",
    )
    places.add_argument(
        "--no-cache-remote",
        action="store_const",
        const="",
        dest="cache_remote",
        help="use no object that came from another machine, now or earlier; for a release",
    )
    places.add_argument(
        "--no-cache", action="store_false", dest="cache", help="compile without the compiler cache"
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
    try:
        return Path.cwd() / Path(_not_empty(text)).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"there is no such home directory: {text}") from None


def _remote(text: str) -> str:
    """Check the address of a remote compiler cache; the error does not repeat it, since it may be secret."""
    scheme, _, rest = text.partition(":")
    if scheme == "file" and rest.startswith("/"):
        return "file:///" + rest.removeprefix("//localhost").lstrip("/")
    if text and (scheme not in {"redis", "rediss", "http", "https"} or not urlsplit(text).netloc):
        raise argparse.ArgumentTypeError(
            "this, or $SAGEATTENTION_BUILD_CACHE_REMOTE, is not an address such as redis://HOST/0, "
            "https://HOST/FOLDER or file:/FOLDER"
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
