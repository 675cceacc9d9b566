"""One wheel of an index or a release, and what may be said of it.

Whatever it was read from, a wheel's own files or an earlier index, it goes through the same checks: what is
here can't be anything else than a wheel's name, a digest, a version, an address or a line of text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.target.machines import machine_of
from builder.util.addresses import is_plain
from builder.wheel.wheelfile import WheelError, WheelName

BASIC = "basic"

# No control characters, none that change lines or the direction of text, and no half of a pair.
_LINE = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{0,500}"
_SPECIFIERS = r"[0-9a-z.*+!=<>~, ]{0,200}"
_SHA256 = r"[0-9a-f]{64}"
_TEXTS = {
    "cuda": r"cu[0-9]{3}",
    "torch": _SPECIFIERS,
    "requires_python": _SPECIFIERS,
    "summary": _LINE,
    "sha256": _SHA256,
    "metadata_sha256": _SHA256,
}
_ARCHITECTURE = re.compile(r"[0-9]{1,2}\.[0-9][af]?")
_CUDA_LABEL = re.compile(r"cu[0-9]{3}(?![^.])")


def shown(value: object) -> str:
    """Return what an error says of a value: its `repr`, not too much of it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _check(key: str, value: object, pattern: str) -> None:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise ValueError(f"{key}: {shown(value)} can't be used")


@dataclass(frozen=True)
class SmokeTest:
    """The result of a wheel's smoke test on a GPU.

    Attributes:
        outcome: `passed`, `failed` or `not run`.
        detail: The report's own one line, or empty.
        on: The GPU and the torch that it ran on, or empty.

    Raises:
        ValueError: One of them is something else.
    """

    outcome: str = "not run"
    detail: str = ""
    on: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in ("passed", "failed", "not run"):
            raise ValueError(f"a smoke test's outcome can't be {shown(self.outcome)}")
        for text in (self.detail, self.on):
            _check("a smoke test's report", text, _LINE)


@dataclass(frozen=True)
class ListedWheel:
    """One wheel, and what is known of it.

    The parts of its file name are read from there.

    Attributes:
        filename: Its file name, with the `+` of the local version as it is.
        project: Normalised project name (PEP 503).
        version: With its local version label: `2.2.0+cu130.torch2.11`.
        python: Python and ABI tag: `cp312`, or `cp310-abi3`.
        platform: Platform tag: `manylinux_2_34_x86_64`.
        cuda: As PyTorch writes it: `cu130`.
        torch: Version specifier of the torch that it requires, `==2.11.*`, or empty.
        requires_python: Its `Requires-Python`, or empty.
        summary: Its `Summary`, or empty.
        architectures: Compute capabilities that it holds code for, as far as they are known.
        complete: Whether it holds all architectures of its target.
        verified: Whether its SBOM and its record say that it was built from the verified release.
        sha256: The wheel's SHA-256.
        size_bytes: Its size.
        metadata_sha256: The SHA-256 of its METADATA (PEP 658).
        smoke_test: The result of its smoke test.
        path: The file; None for a wheel of an earlier release.
        url: Its address in the index, absolute or relative to the site; empty until it has one.
        record: The JSON record beside it, or empty.

    Raises:
        ValueError: A value is not what it has to be; says which.
    """

    filename: str
    project: str = field(init=False)
    version: str = field(init=False)
    python: str = field(init=False)
    platform: str = field(init=False)
    cuda: str
    torch: str
    requires_python: str
    summary: str
    architectures: tuple[str, ...]
    complete: bool
    verified: bool
    sha256: str
    size_bytes: int
    metadata_sha256: str
    smoke_test: SmokeTest = SmokeTest()
    path: Path | None = None
    url: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for part, value in _parts(self.filename).items():
            object.__setattr__(self, part, value)
        for key, pattern in _TEXTS.items():
            _check(key, getattr(self, key), pattern)
        for specifiers in (self.torch, self.requires_python):
            SpecifierSet(specifiers)
        label = _CUDA_LABEL.match(Version(self.version).local or "")
        if label and label[0] != self.cuda:
            raise ValueError(f"cuda: its version says {label[0]}, not {self.cuda}")
        for architecture in self.architectures:
            _check("architectures", architecture, _ARCHITECTURE.pattern)
        for key in ("complete", "verified"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key}: {shown(getattr(self, key))} is not true or false")
        if type(self.size_bytes) is not int or self.size_bytes < 0:
            raise ValueError(f"size_bytes: {shown(self.size_bytes)} is not a size")
        here = f"{self.folder}/{quote(self.filename)}"
        if self.url not in ("", here) and not (
            is_plain(self.url, insecure=True) and unquote(self.url.rpartition("/")[2]) == self.filename
        ):
            raise ValueError(f"url: {shown(self.url)} is not the address of {self.filename}")

    @property
    def machine(self) -> str:
        """The machine of its platform tag: `aarch64`; the whole tag if it names another one."""
        machine = machine_of(self.platform)
        return machine.name if machine else self.platform

    @property
    def folder(self) -> str:
        """The site's folder for it and its METADATA."""
        return f"{self.cuda}/{self.project}" if self.portable else BASIC

    @property
    def portable(self) -> bool:
        """Whether its tag promises a glibc (PEP 600), so that pip can refuse it on an older system."""
        return not self.platform.startswith("linux_")

    @property
    def beside_the_index(self) -> bool:
        """Whether it is served from the index's own site: its address is relative."""
        return not self.url.startswith(("http://", "https://"))

    @property
    def release(self) -> str:
        """The version without its local label: `2.2.0`."""
        return Version(self.version).public

    def recorded(self, key: str) -> Mapping[str, Any]:
        """Return a table of its record, empty if the record has no such table."""
        found = self.record.get(key)
        return found if isinstance(found, dict) else {}

    @property
    def human_size(self) -> str:
        """Its size for people: `20.7 MB`."""
        return human_size(self.size_bytes)

    @property
    def human_cuda(self) -> str:
        """The CUDA version as NVIDIA writes it: `13.0`."""
        digits = self.cuda.removeprefix("cu")
        return f"{digits[:-1]}.{digits[-1]}"

    @property
    def human_python(self) -> str:
        """The Python versions that it is for: `3.12`, or `3.10 and newer`."""
        match = re.match(r"cp3(\d+)(-abi3)?", self.python)
        if match is None:
            return self.python
        return f"3.{match[1]} and newer" if match[2] else f"3.{match[1]}"

    @property
    def human_torch(self) -> str:
        """The torch versions that it is for: `2.11`, or `2.10 and newer`."""
        match = re.fullmatch(r"(==|>=)(\d+\.\d+)(\.\*)?", self.torch)
        if match is None:
            return self.torch or "not stated"
        return match[2] if match[1] == "==" else f"{match[2]} and newer"


def human_size(size_bytes: int) -> str:
    """Return a size for people, in decimal units: `20.7 MB`."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} bytes"


def newest_of_each_cuda(wheels: Iterable[ListedWheel]) -> list[ListedWheel]:
    """Return the first wheel of each CUDA version; give the newest ones first."""
    found: dict[str, ListedWheel] = {}
    for wheel in wheels:
        found.setdefault(wheel.cuda, wheel)
    return list(found.values())


def newest_first(wheels: Iterable[ListedWheel]) -> list[ListedWheel]:
    """Sort wheels: the newest version first, then the newest CUDA version, then `abi3` before the others."""
    by_name = sorted(wheels, key=lambda wheel: (wheel.python, wheel.filename))
    return sorted(by_name, key=lambda wheel: (Version(wheel.release), wheel.cuda), reverse=True)


def _parts(filename: object) -> dict[str, str]:
    """Return the project, version, Python and platform of a wheel's name, which has to be in its normal form.

    Otherwise one wheel could be listed twice, under two names that pip and uv take for one.
    """
    try:
        name = WheelName.parse(str(filename))
    except WheelError as error:
        raise ValueError(error.message.rstrip(".")) from None
    project, version = canonicalize_name(name.distribution), str(Version(name.version))
    normal = f"{project.replace('-', '_')}-{version}-{name.tag}.whl"
    if filename != normal:
        raise ValueError(f"{shown(filename)} is not a wheel's normal name, which is {normal}")
    python = name.python if name.abi == name.python else f"{name.python}-{name.abi}"
    return {"project": project, "version": version, "python": python, "platform": name.platform}
