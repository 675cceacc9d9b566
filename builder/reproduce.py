"""Builds a target twice under different conditions, and compares the wheels byte for byte.

What differs between the two builds: the folder (and the length of its name), the number of jobs, Python's
hash seed, and the time. Neither uses the compiler cache, so that everything is really compiled twice.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from builder.pipeline import build
from builder.target.options import parse_build_options
from builder.target.targets import find_target
from builder.util.digest import file_sha256
from builder.util.errors import ReproducibilityError
from builder.util.log import say

_ATTRIBUTES = ("date_time", "external_attr", "compress_type", "create_system", "compress_size")


def first_difference(one: Path, other: Path) -> str:
    """What differs first between two wheels: a member's name, data or attributes; empty where nothing does.

    Args:
        one: A wheel.
        other: A wheel that should hold the same bytes.

    Returns:
        One sentence that names the member, and of a library the section.
    """
    if file_sha256(one) == file_sha256(other):
        return ""
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        names, other_names = left.namelist(), right.namelist()
        only = sorted(set(names) ^ set(other_names))
        if only:
            return f"{only[0]} is in one wheel only"
        if names != other_names:
            return "the members stand in another order"
        for name in names:
            data, other_data = left.read(name), right.read(name)
            if data != other_data:
                return f"{name}: {_where(data, other_data)}"
            info, other_info = left.getinfo(name), right.getinfo(name)
            for attribute in _ATTRIBUTES:
                if getattr(info, attribute) != getattr(other_info, attribute):
                    return f"{name}: {attribute} differs"
    return "the archives' own structure differs"


def _where(data: bytes, other: bytes) -> str:
    pairs = enumerate(zip(data, other, strict=False))
    offset = next((i for i, (one, two) in pairs if one != two), min(len(data), len(other)))
    place = f"first difference at byte {offset} of {len(data)} and {len(other)}"
    try:
        for section in ELFFile(io.BytesIO(data)).iter_sections():
            start = int(section["sh_offset"])
            if section["sh_type"] != "SHT_NOBITS" and start <= offset < start + int(section["sh_size"]):
                return f"{place}, in section {section.name}"
    except ELFError:
        pass
    return place


def main(argv: Sequence[str]) -> int:
    """Build a target twice and compare.

    Args:
        argv: The target's name, then a build's options.

    Returns:
        0 where all wheels are equal.

    Raises:
        ReproducibilityError: A wheel differs; the message names the first difference.
    """
    name, *rest = list(argv) or [""]
    target = find_target(name)
    options = replace(
        parse_build_options(rest, os.environ, prog=f"nox -s reproduce-{name} --"), cache=False, force=True
    )
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        root = Path(folder)
        wheels: list[list[Path]] = []
        # The second folder's name is longer, so that a path in a wheel would move what follows it.
        for work, jobs, seed in (("a", options.jobs, 1), ("another-folder", 1, 2)):
            say(f"\n== build in {root / work}, jobs: {jobs or 'as planned'}, hash seed {seed}")
            wheels.append(
                build(
                    target,
                    replace(options, wheelhouse=root / work / "wheelhouse", jobs=jobs),
                    work_root=root / work / "build",
                    hash_seed=seed,
                )
            )
        return compare(*wheels)


def compare(first: Sequence[Path], second: Sequence[Path]) -> int:
    """Compare two builds' wheels, and say so.

    Raises:
        ReproducibilityError: They differ.
    """
    names = [[wheel.name for wheel in wheels] for wheels in (first, second)]
    if names[0] != names[1]:
        raise ReproducibilityError(f"The two builds made other wheels: {names[0]} and {names[1]}.")
    for one, other in zip(first, second, strict=True):
        difference = first_difference(one, other)
        if difference:
            raise ReproducibilityError(
                f"{one.name} is not reproducible: {difference}.",
                "Both builds ran here, with the same compilers: the difference comes from the build itself.",
            )
        say(f"equal: {one.name} ({one.stat().st_size} bytes, sha256 {file_sha256(one)})")
    return 0
