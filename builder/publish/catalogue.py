"""Reads what the index and the release say about the wheels: from the wheels, and the records beside them.

A wheel's own file name, METADATA and SHA-256 come first. The JSON record beside it adds the rest. A record
with a different SHA-256 is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.finish.wheelhouse import wheels_in
from builder.util.digest import file_sha256
from builder.util.errors import UsageError

SMOKETEST_SUFFIX = ".smoketest.json"
RECORD_SUFFIX = ".json"
METADATA_SUFFIX = ".metadata"

# Exit codes of a smoke test that found a fault: a row failed, or the package can't be imported. All others
# except 0 are about the machine, not about the wheel (builder/smoketest/report/outcome.py).
_SMOKETEST_FAILURES = (1, 25)

_CUDA_TAG = re.compile(r"cu\d{3}")
_ARCHITECTURE_TAG = re.compile(r"sm(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class SmokeTest:
    """The result of a wheel's smoke test on a GPU.

    Attributes:
        outcome: `passed`, `failed` or `not run`.
        detail: The report's own one line, or empty.
        on: The GPU and the torch that it ran on, or empty.
    """

    outcome: str = "not run"
    detail: str = ""
    on: str = ""


@dataclass(frozen=True)
class ListedWheel:
    """One wheel, and what is known of it.

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
        verified: Whether its record says that it was built from the verified release.
        sha256: The wheel's SHA-256.
        size_bytes: Its size.
        metadata_sha256: The SHA-256 of its METADATA (PEP 658).
        smoke_test: The result of its smoke test.
        path: The file; None for a wheel of an earlier release.
        url: Its address in the index, absolute or relative to the site; empty until it has one.
        record: The JSON record beside it, or empty.
    """

    filename: str
    project: str
    version: str
    python: str
    platform: str
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
        return _table(self.record, key)

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


def find_wheels(given: Sequence[str], wheelhouse: Path) -> list[Path]:
    """Return the given wheels, or all of the wheelhouse, sorted by name.

    Raises:
        UsageError: A given file is not a wheel, is missing or is given twice, or the wheelhouse is empty.
    """
    paths = [Path(name) for name in given] or wheels_in(wheelhouse)
    for path in paths:
        if path.suffix != ".whl" or not path.is_file():
            raise UsageError(
                f"{path} is not a wheel file (*.whl).", "Give files, or none for the whole wheelhouse."
            )
    if not paths:
        raise UsageError(f"There is no wheel in {wheelhouse}.", "Build one: `nox -l` lists the targets.")
    names = [path.name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} was given twice.", "Give each wheel once.")
    return sorted(paths, key=lambda path: path.name)


def read_wheel(path: Path) -> ListedWheel:
    """Read a wheel, the record beside it, and the report of its smoke test.

    Raises:
        UsageError: An index can't hold it, or its record or report has a different SHA-256.
    """
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise UsageError(f"{path}: {error}.", "Give it the name that it was built with.") from None
    python_tag, abi_tag, platform_tag = path.name.removesuffix(".whl").rsplit("-", 3)[1:]
    metadata = read_metadata(path)
    headers = BytesParser().parsebytes(metadata)
    if canonicalize_name(str(headers["Name"])) != name or Version(str(headers["Version"])) != version:
        raise UsageError(
            f"{path}: its METADATA is for {headers['Name']} {headers['Version']}.", "Build it again."
        )
    sha256 = file_sha256(path)
    size_bytes = path.stat().st_size
    record = _read_json(path.with_name(path.name + RECORD_SUFFIX))
    recorded = _table(record, "wheel").get("sha256") or record.get("sha256")
    if recorded not in (None, sha256):
        raise UsageError(
            f"{path}: its record has a different SHA-256: {recorded}. The wheel's is {sha256}.",
            "Build it again, or move the record away.",
        )
    local = version.local or ""
    return ListedWheel(
        filename=path.name,
        project=name,
        version=str(version),
        python=python_tag if abi_tag == python_tag else f"{python_tag}-{abi_tag}",
        platform=platform_tag,
        cuda=_cuda_tag(path, local, record),
        torch=_torch_specifier(headers.get_all("Requires-Dist") or []),
        requires_python=str(headers["Requires-Python"] or ""),
        summary=str(headers["Summary"] or ""),
        architectures=_architectures(local, record),
        complete=bool(record.get("complete", True)) and not _ARCHITECTURE_TAG.search(local),
        verified=_table(record, "source").get("verified") is True,
        sha256=sha256,
        size_bytes=size_bytes,
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        smoke_test=_smoke_test(path, sha256),
        path=path,
        record=record,
    )


def read_metadata(path: Path) -> bytes:
    """Return a wheel's METADATA file, byte for byte.

    Raises:
        UsageError: The file is not a zip archive, or does not hold exactly one METADATA file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            if len(found) != 1:
                raise UsageError(f"{path}: it holds {len(found)} METADATA files, not one.", "Build it again.")
            return archive.read(found[0])
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path}: it can't be read as a wheel: {error}.", "Build it again.") from error


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


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: it can't be read: {error}.", "Make it again, or move it away.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: it is not a JSON object.", "Make it again, or move it away.")
    return values


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _cuda_tag(path: Path, local: str, record: Mapping[str, Any]) -> str:
    """Return a wheel's CUDA version, from its local version label or else from its record."""
    match = _CUDA_TAG.match(local)
    if match:
        return match[0]
    digits = str(record.get("cuda", "")).replace(".", "").removeprefix("cu")
    if re.fullmatch(r"\d{3}", digits):
        return f"cu{digits}"
    raise UsageError(
        f"{path}: neither its version nor a record beside it says which CUDA version it is for.",
        "Give only wheels that this project built.",
    )


def _torch_specifier(requirements: Iterable[str]) -> str:
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) == "torch" and requirement.marker is None:
            return str(requirement.specifier)
    return ""


def _architectures(local: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    recorded = record.get("architectures")
    if isinstance(recorded, list) and all(isinstance(item, str) for item in recorded):
        return tuple(recorded)
    tags = [_ARCHITECTURE_TAG.fullmatch(part) for part in local.split(".")]
    return tuple(f"{tag[1]}.{tag[2]}{tag[3]}" for tag in tags if tag)


def _smoke_test(path: Path, sha256: str) -> SmokeTest:
    """Return the smoke test's result from the report beside a wheel.

    A test that only imported the package, or that had no GPU, counts as not run.
    """
    report_path = path.with_name(path.name + SMOKETEST_SUFFIX)
    report = _read_json(report_path)
    if not report:
        return SmokeTest()
    environment = _table(report, "environment")
    tested = _table(report, "wheel").get("sha256")
    if tested != sha256:
        raise UsageError(
            f"{report_path}: it has a different SHA-256: {tested or 'none'}. The wheel's is {sha256}.",
            "Run the smoke test again, or move the report away.",
        )
    torch = environment.get("torch")
    on = [str(environment.get("gpu") or ""), f"torch {torch}" if torch else ""]
    exit_code = report.get("exit_code")
    if exit_code == 0 and report.get("mode") != "import-only":
        outcome = "passed"
    elif exit_code in _SMOKETEST_FAILURES:
        outcome = "failed"
    else:
        outcome = "not run"
    return SmokeTest(outcome, str(report.get("headline", "")), ", ".join(part for part in on if part))
