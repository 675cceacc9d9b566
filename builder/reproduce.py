"""Builds a target twice under different conditions, and compares the wheels byte for byte.

The two builds differ in their folder (and the length of its name), their number of jobs, Python's hash seed,
and the time. Neither uses the compiler cache, so that everything is compiled twice.
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
    """Return the first difference between two wheels, empty where there is none.

    It names the member, and what of it differs: its data or an attribute. In a library, it names the section.

    Args:
        one: A wheel.
        other: A wheel that should have the same bytes.
    """
    if file_sha256(one) == file_sha256(other):
        return ""
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        names, other_names = left.namelist(), right.namelist()
        only = sorted(set(names) ^ set(other_names))
        if only:
            return f"{only[0]} is in one wheel only"
        if names != other_names:
            return "the members are in a different order"
        for name in names:
            data, other_data = left.read(name), right.read(name)
            if data != other_data:
                return f"{name}: {_where(data, other_data)}"
            info, other_info = left.getinfo(name), right.getinfo(name)
            for attribute in _ATTRIBUTES:
                if getattr(info, attribute) != getattr(other_info, attribute):
                    return f"{name}: {attribute} differs"
    return "the structure of the archives differs"


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
    """Build a target twice and compare the wheels.

    Args:
        argv: The target's name, then a build's options.

    Returns:
        0: all wheels are equal.

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
        # The second folder's name is longer, so that a path in a wheel would move what comes after it.
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
