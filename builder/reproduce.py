"""Builds a target twice, or once for comparison with somebody else's wheel; compares byte for byte.

Two builds differ in their folder (and the length of its name), their number of jobs, Python's hash seed, and
the time. No build here uses the compiler cache, so that everything is compiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.build import build
from builder.finish.store import locked
from builder.target.options import BuildOptions, is_url, parse_build_options
from builder.target.targets import Target, find_target
from builder.util import http
from builder.util.arguments import Parser
from builder.util.errors import ReproducibilityError, UsageError
from builder.util.files import ROOT, file_sha256
from builder.util.log import say
from builder.wheel import sbom
from builder.wheel.elf import differing_section
from builder.wheel.wheelfile import Wheel


def main(argv: Sequence[str], *, work_root: Path = ROOT / "build") -> int:
    """Build a target twice and compare the wheels, or once and compare one with another wheel.

    Raises:
        ReproducibilityError: A wheel differs; the message names the first difference.
    """
    name, *rest = list(argv) or [""]
    target = find_target(name)
    parser = Parser(prog=f"nox -s reproduce-{name} --", add_help=False, allow_abbrev=False)
    parser.add_argument("--against", metavar="WHEEL|URL", help="build once, and compare with this wheel")
    known, rest = parser.parse_known_args(rest)
    options = parse_build_options(rest, os.environ, prog=parser.prog, parents=[parser])
    options = replace(options, cache=False, force=True)
    folder = work_root / f"reproduce-{name}"
    with locked(folder):
        try:
            _empty(folder)  # of what a run left that was killed
            if options.check:
                _build(target, options, folder / "a", seed=1)
            elif known.against:
                _compare_with(_obtain(known.against, folder), target, options, folder / "a")
            else:
                first = _build(target, options, folder / "a", seed=1)
                # This name is longer, so that a path in a wheel would move what comes after it.
                second = _build(target, replace(options, jobs=1), folder / "another-folder", seed=2)
                compare(first, second)
        finally:
            if not options.keep_build:
                _empty(folder)
    return 0


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _build(target: Target, options: BuildOptions, folder: Path, *, seed: int) -> list[Path]:
    say(f"\n== build in {folder}, jobs: {options.jobs or 'as planned'}, hash seed {seed}")
    options = replace(options, wheelhouse=folder / "wheelhouse")
    return build(target, options, work_root=folder / "build", hash_seed=seed)


def _obtain(location: str, folder: Path) -> Path:
    path = Path(location)
    if is_url(location):
        path = folder / "other" / Path(unquote(urlsplit(location).path)).name
        http.download(location, path)
    elif not path.is_file():
        raise UsageError(f"--against {location}: there is no such file.")
    return path


def _compare_with(other: Path, target: Target, options: BuildOptions, folder: Path) -> None:
    """Build what a wheel says that it was built for, and compare with it."""
    say(f"comparing with {other.name} (sha256 {file_sha256(other)})")
    properties = _sbom(other).subject.properties
    if properties.get("target", target.name) != target.name:
        raise UsageError(f"{other.name} is a wheel of {properties['target']}.", "Run that target's session.")
    arch = options.arch or properties.get("architectures", "").replace(" ", ";") or None
    built = _build(target, replace(options, arch=arch), folder, seed=1)
    compare([wheel for wheel in built if wheel.name == other.name] or built, [other])


def compare(wheels: Sequence[Path], others: Sequence[Path]) -> None:
    """Compare the wheels of two builds; ReproducibilityError names the first difference, and the tools'."""
    names = [", ".join(wheel.name for wheel in each) for each in (wheels, others)]
    if names[0] != names[1]:
        raise ReproducibilityError(f"The builds made different wheels: {names[0]} and {names[1]}.")
    for wheel, other in zip(wheels, others, strict=True):
        if difference := first_difference(wheel, other):
            tools = [
                {f"{tool.name} {tool.version}" for tool in _sbom(path).of_kind("build-tool")}
                for path in (wheel, other)
            ]
            remedy = "By the wheels' SBOMs, both were made by the same versions of all tools."
            if tools[0] != tools[1]:
                remedy = f"The tools differ: {', '.join(sorted(tools[0] ^ tools[1]))}."
            raise ReproducibilityError(f"{wheel.name} is not reproducible: {difference}.", remedy)
        say(f"equal: {wheel.name} ({wheel.stat().st_size} bytes, sha256 {file_sha256(wheel)})")


def first_difference(wheel: Path, other: Path) -> str:
    """Return the first difference between two wheels: member, place, and a library's section; else ''."""
    if wheel.read_bytes() == other.read_bytes():
        return ""
    with Wheel(wheel) as left, Wheel(other) as right:
        if only := sorted(set(left.names) ^ set(right.names)):
            return f"{only[0]} is in one wheel only"
        for name in left.names:
            data, other_data = left.read(name), right.read(name)
            if data == other_data:
                continue
            pairs = enumerate(zip(data, other_data, strict=False))
            offset = next((i for i, (a, b) in pairs if a != b), min(len(data), len(other_data)))
            place = f"{name}: first difference at byte {offset} of {len(data)} and {len(other_data)}"
            if section := differing_section(data, other_data):
                return f"{place}; section {section} differs"
            start = data.rfind(b"\n", 0, offset) + 1
            lines = [text[start:].partition(b"\n")[0].decode(errors="replace") for text in (data, other_data)]
            return f"{place}, {lines[0][:200]!r} and {lines[1][:200]!r}"
    return "the archives differ, and their members don't"


def _sbom(path: Path) -> sbom.Sbom:
    with Wheel(path) as wheel:
        return sbom.read(wheel) or sbom.Sbom(sbom.Component("", ""))
