"""Which combinations of torch and Python a wheel claims to be for, and which torches there are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.check.label import Label, torch_requirement
from builder.check.pythons import minor_of
from builder.util.limits import RESOLVE_SECONDS
from builder.util.process import Finished, run
from builder.wheel.wheelfile import Wheel


@dataclass(frozen=True)
class Claim:
    """What a wheel claims to be for.

    Attributes:
        torch: Versions that its metadata allows.
        python: Versions that its metadata allows.
        only: The one Python minor version of its tag, `3.12`; empty for the stable ABI.
        lowest: The lowest Python minor version of its tag, for the stable ABI: `3.10`.
        label: What its local version says.
    """

    torch: SpecifierSet
    python: SpecifierSet
    only: str
    lowest: str
    label: Label

    def why_not(self, torch: str, python: str) -> str:
        """Return why the wheel does not claim to be for a pair; empty where it does."""
        if self.only and python != self.only:
            return f"the wheel's tag is for Python {self.only}"
        if self.lowest and Version(python) < Version(self.lowest):
            return f"the wheel's tag is for Python {self.lowest} and later"
        if not self.python.contains(python) and not self.python.contains(f"{python}.99"):
            return f"the wheel requires Python {self.python}"
        if not self.torch.contains(torch) and not self.torch.contains(f"{torch}.99"):
            return f"the wheel requires torch{self.torch}"
        return ""


def read_claim(wheel: Path) -> Claim:
    """Read from a wheel's name and metadata what it claims to be for.

    Raises:
        WheelError: It is not a wheel.
    """
    with Wheel(wheel) as opened:
        name, metadata = opened.name, opened.metadata
        required = torch_requirement(metadata.get_all("Requires-Dist"))
    tagged = re.fullmatch(r"cp3(\d+)", name.python)
    minor = f"3.{tagged[1]}" if tagged else ""
    return Claim(
        torch=required.specifier if required else SpecifierSet(),
        python=SpecifierSet(str(metadata["Requires-Python"] or "")),
        only="" if name.abi in ("abi3", "none") else minor,
        lowest=minor if name.abi == "abi3" else "",
        label=Label.parse(name.local_version),
    )


@dataclass(frozen=True)
class Newest:
    """The newest torch that meets a specifier.

    Attributes:
        version: Empty where there is none, or where that is not known.
        reason: Why there is no version.
        missing: Whether the index says that there is none.
    """

    version: str = ""
    reason: str = ""
    missing: bool = False


def newest_torch(specifier: str, python: str, index: str | None = None) -> Newest:
    """Ask the package index for the newest torch that meets a specifier.

    Args:
        specifier: `>=2.10`, `==2.12.*`.
        python: The Python that it is for, `3.12`.
        index: An index that is asked before the default one.

    Raises:
        CommandError: uv can't be run, or does not end.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate"]
    command += ["--quiet", "--python-version", python, "--only-binary", "torch"]
    command += ["--index", index, "--index-strategy", "unsafe-best-match"] if index else []
    asked = f"torch{specifier}\n"
    return read_resolution(run(command, text=asked, timeout_seconds=RESOLVE_SECONDS, check=False))


def read_resolution(answer: Finished) -> Newest:
    """Return what the resolver's answer says."""
    match = re.search(r"^torch==(\S+)", answer.output, re.MULTILINE)
    if answer.status == 0 and match:
        return Newest(match[1])
    said = " ".join(answer.errors.split())
    if "No solution found" in said:
        because = re.search(r"Because (.*?)(?: and you require .*|,? we can conclude.*|$)", said)
        return Newest(reason=because[1] if because else said, missing=True)
    return Newest(reason=said or "the resolver said nothing")


def each_minor(allowed: str, newest: Callable[[str], str]) -> list[str]:
    """Return the newest version of each minor version that a specifier allows, oldest first.

    Args:
        allowed: The specifier.
        newest: Returns the newest version that meets a specifier; empty where there is none.
    """
    versions: list[str] = []
    below = ""
    while len(versions) < 40:  # far more than there are; an index that answers the same again ends it
        version = newest(",".join(filter(None, (allowed, below))))
        if not version or version in versions:
            break
        versions.append(version)
        below = f"<{minor_of(version)}.0.dev0"
    return versions[::-1]


def claimed_torches(claims: Iterable[Claim], pythons: Iterable[str], index: str | None) -> list[str]:
    """Return the newest torch of each minor version that wheels allow and that one of the Pythons can have.

    Raises:
        CommandError: uv can't be run, or does not end.
    """
    minors: dict[str, str] = {}
    for allowed, python in product({str(claim.torch) for claim in claims}, pythons):
        for version in each_minor(allowed, lambda text: newest_torch(text, python, index).version):  # noqa: B023
            known = minors.get(minor_of(version), version)
            minors[minor_of(version)] = max(known, version, key=Version)
    return sorted(minors.values(), key=Version)
