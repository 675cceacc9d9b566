"""Builds a target twice, or once for comparison with somebody else's wheel; compares byte for byte.

Two builds differ in their folder (and the length of its name), their number of jobs, Python's hash seed, and
the time. No build here uses the compiler cache, so that everything is compiled.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from elftools.elf.elffile import ELFFile

from builder.finish.sbom import Bill, own_sbom
from builder.pipeline import build
from builder.target.options import BuildOptions, is_url, parse_build_options
from builder.target.targets import Target, find_target
from builder.util.arguments import Parser
from builder.util.digest import file_sha256
from builder.util.downloads.download import download
from builder.util.errors import ReproducibilityError, UsageError
from builder.util.log import detail, say
from builder.wheel.elf import is_elf
from builder.wheel.wheelfile import Wheel, WheelError

_ATTRIBUTES = ("date_time", "external_attr", "compress_type", "create_system", "compress_size")


def first_difference(one: Path, other: Path) -> str:
    """Return the first difference between two wheels, empty where there is none.

    It names the member, and what of it differs: its data or an attribute. In a library, it names the section.

    Args:
        one: A wheel.
        other: A wheel that should have the same bytes.
    """
    if file_sha256(one) == file_sha256(other):
        return ""
    with Wheel(one) as left, Wheel(other) as right:
        only = sorted(set(left.names) ^ set(right.names))
        if only:
            return f"{only[0]} is in one wheel only"
        if left.names != right.names:
            return "the members are in a different order"
        for name in left.names:
            data, other_data = left.read(name), right.read(name)
            if data != other_data:
                return f"{name}: {_where(data, other_data)}"
            info, other_info = left.members[name], right.members[name]
            for attribute in _ATTRIBUTES:
                if getattr(info, attribute) != getattr(other_info, attribute):
                    return f"{name}: {attribute} differs"
    return "the structure of the archives differs"


def tool_differences(one: Path, other: Path) -> list[str]:
    """Return what two wheels' SBOMs say differently of the tools that made them: `g++ 12.2.0 and 14.2.1`.

    Raises:
        WheelError: A wheel is damaged.
    """
    tools = [_tools(path) for path in (one, other)]
    return [
        f"{name} {' and '.join(found.get(name, 'without one') for found in tools)}"
        for name in sorted(tools[0].keys() | tools[1].keys())
        if tools[0].get(name) != tools[1].get(name)
    ]


def _tools(path: Path) -> dict[str, str]:
    bill = _bill(path)
    return {part.name: part.version for part in bill.materials if part.kind == "build-tool"} if bill else {}


def _bill(path: Path) -> Bill | None:
    with Wheel(path) as wheel:
        try:
            return own_sbom(wheel)
        except ValueError as error:
            raise WheelError(f"{path.name}: its SBOM can't be read: {error}.") from error


def _where(data: bytes, other: bytes) -> str:
    pairs = enumerate(zip(data, other, strict=False))
    offset = next((i for i, (one, two) in pairs if one != two), min(len(data), len(other)))
    place = f"first difference at byte {offset} of {len(data)} and {len(other)}"
    if is_elf(data) and is_elf(other):
        sections, others = _sections(data), _sections(other)
        names = (name for name, content in sections.items() if others.get(name) != content)
        name = next(names, "") or next((name for name in others if name not in sections), "")
        return f"{place}; section {name} differs" if name else place
    start = data.rfind(b"\n", 0, offset) + 1
    lines = [text[start:].partition(b"\n")[0].decode(errors="replace") for text in (data, other)]
    if all(line.isprintable() for line in lines):
        return f"{place}, {lines[0][:200]!r} and {lines[1][:200]!r}"
    return place


def _sections(data: bytes) -> dict[str, bytes]:
    """Return the content of a library's sections in their order, as far as they can be read."""
    found = {}
    try:
        for section in ELFFile(io.BytesIO(data)).iter_sections():
            if section.name and section["sh_type"] != "SHT_NOBITS":
                start = int(section["sh_offset"])
                found[str(section.name)] = data[start : start + int(section["sh_size"])]
    except Exception as error:  # pyelftools raises what it likes over a library that is damaged
        detail(f"a library's sections can't be read: {error}")
    return found


def main(argv: Sequence[str]) -> int:
    """Build a target twice and compare the wheels, or once and compare one with another wheel.

    Args:
        argv: The target's name, then a build's options, and `--against`.

    Returns:
        0: all wheels are equal.

    Raises:
        ReproducibilityError: A wheel differs; the message names the first difference.
        BuilderError: A build failed, or the other wheel can't be obtained.
    """
    name, *rest = list(argv) or [""]
    target = find_target(name)
    parser = Parser(prog=f"nox -s reproduce-{name} --", add_help=False, allow_abbrev=False)
    parser.add_argument("--against", metavar="WHEEL|URL", help="build once, and compare with this wheel")
    known, rest = parser.parse_known_args(rest)
    options = parse_build_options(rest, os.environ, prog=parser.prog, parents=[parser])
    options = replace(options, cache=False, force=True)
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        root = Path(folder)
        if options.check:
            _build(target, options, root / "a", seed=1)
            return 0
        if known.against:
            return _against(_obtain(known.against, root / "other"), target, options, root)
        # The second folder's name is longer, so that a path in a wheel would move what comes after it.
        first = _build(target, options, root / "a", seed=1)
        return compare(first, _build(target, replace(options, jobs=1), root / "another-folder", seed=2))


def _build(target: Target, options: BuildOptions, work: Path, *, seed: int) -> list[Path]:
    say(f"\n== build in {work}, jobs: {options.jobs or 'as planned'}, hash seed {seed}")
    options = replace(options, wheelhouse=work / "wheelhouse")
    return build(target, options, work_root=work / "build", hash_seed=seed)


def _obtain(location: str, folder: Path) -> Path:
    if not is_url(location):
        if not Path(location).is_file():
            raise UsageError(f"--against {location}: there is no such file.")
        return Path(location)
    fetched = download(location, None, None, folder)
    return fetched.rename(folder / Path(unquote(urlsplit(location).path)).name)


def _against(other: Path, target: Target, options: BuildOptions, root: Path) -> int:
    """Build what a wheel says that it was built for, and compare with it."""
    say(f"comparing with {other.name} (sha256 {file_sha256(other)})")
    bill = _bill(other)
    made_for = bill.subject.fact("target") if bill else ""
    if made_for not in {"", target.name}:
        raise UsageError(f"{other.name} is a wheel of {made_for}.", "Run that target's session.")
    arch = options.arch or (bill and bill.subject.fact("architectures").replace(" ", ";")) or None
    return compare_with(other, _build(target, replace(options, arch=arch), root / "a", seed=1))


def compare_with(other: Path, built: Sequence[Path]) -> int:
    """Compare the wheels of a build with somebody else's; returns 0 where one is equal to it.

    Raises:
        ReproducibilityError: It differs; the message names the first difference, and the tools that differ.
    """
    same = [wheel for wheel in built if wheel.name == other.name]
    if not same:
        names = " and ".join(wheel.name for wheel in built)
        raise ReproducibilityError(f"The build made {names}, not {other.name}.")
    if difference := first_difference(same[0], other):
        tools = "; ".join(tool_differences(same[0], other))
        raise ReproducibilityError(
            f"{other.name} is not what is built here: {difference}.",
            f"The tools differ (here, and there): {tools}."
            if tools
            else "By the wheels' SBOMs, the tools here and there are of the same versions.",
        )
    return compare(same, [other])


def compare(first: Sequence[Path], second: Sequence[Path]) -> int:
    """Compare the wheels of two builds; returns 0 where they are equal.

    Raises:
        ReproducibilityError: They differ.
    """
    names = [[wheel.name for wheel in wheels] for wheels in (first, second)]
    if names[0] != names[1]:
        raise ReproducibilityError(f"The two builds made different wheels: {names[0]} and {names[1]}.")
    for one, other in zip(first, second, strict=True):
        difference = first_difference(one, other)
        if difference:
            raise ReproducibilityError(
                f"{one.name} is not reproducible: {difference}.",
                "Both builds ran here with the same compilers, so the build itself makes the difference.",
            )
        say(f"equal: {one.name} ({one.stat().st_size} bytes, sha256 {file_sha256(one)})")
    return 0
