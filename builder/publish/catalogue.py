"""Reads what the index and the release say about the wheels: from the wheels, and the records beside them.

A wheel's own file name, METADATA, SBOM and SHA-256 come first. The JSON record beside it adds the rest. A
record with a different SHA-256, or one that contradicts the SBOM, is an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.finish.record import IMPORTED, disagreements
from builder.finish.sbom import own_sbom
from builder.finish.wheelhouse import wheels_in
from builder.publish.listed_wheel import ListedWheel, SmokeTest
from builder.util.answers import read_json
from builder.util.digest import file_sha256
from builder.util.errors import UsageError
from builder.wheel.wheelfile import Wheel, WheelError

SMOKETEST_SUFFIX = ".smoketest.json"
RECORD_SUFFIX = ".json"
METADATA_SUFFIX = ".metadata"

# Exit codes of a smoke test that found a fault: a row failed, or the package can't be imported. All others
# except 0 are about the machine, not about the wheel (builder/smoketest/report/outcome.py).
_SMOKETEST_FAILURES = (1, 25)

_CUDA_TAG = re.compile(r"cu\d{3}")
_ARCHITECTURE_TAG = re.compile(r"sm(\d+)(\d)([af]?)")


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
        UsageError: An index can't hold it, or the record or the report is not of this wheel.
    """
    try:
        with Wheel(path) as wheel:
            return _listed(wheel)
    except WheelError as error:
        raise UsageError(error.message, "Build it again.") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: {error}.", "Build it again.") from None


def _listed(wheel: Wheel) -> ListedWheel:
    path, headers, bill = wheel.path, wheel.metadata, own_sbom(wheel)
    named, version = wheel.name.distribution, Version(wheel.name.version)
    project = canonicalize_name(named)
    if canonicalize_name(str(headers["Name"])) != project or Version(str(headers["Version"])) != version:
        raise ValueError(f"its METADATA is for {headers['Name']} {headers['Version']}")
    sha256 = file_sha256(path)
    record = _read_json(path.with_name(path.name + RECORD_SUFFIX))
    recorded = _table(record, "wheel").get("sha256") or record.get("sha256")
    if recorded not in (None, sha256):
        raise UsageError(
            f"{path}: its record has a different SHA-256: {recorded}. The wheel's is {sha256}.",
            "Build it again, or move the record away.",
        )
    if bill and record and (differences := disagreements(record, wheel, bill)):
        raise UsageError(
            f"{path}: its record contradicts its SBOM: {'; '.join(differences)}.",
            "Build it again, or move the record away.",
        )
    local = version.local or ""
    return ListedWheel(
        filename=path.name,
        cuda=_cuda_tag(path, local, record),
        torch=_torch_specifier(headers.get_all("Requires-Dist") or []),
        requires_python=str(headers["Requires-Python"] or ""),
        summary=_line(headers["Summary"]),
        architectures=_architectures(local, record),
        complete=bool(record.get("complete", True)) and not _ARCHITECTURE_TAG.search(local),
        verified=bill is not None
        and [part.fact("verified") for part in bill.sources] == ["true"]
        and _table(record, "source").get("verified") is True,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        metadata_sha256=hashlib.sha256(wheel.read(wheel.in_dist_info("METADATA"))).hexdigest(),
        smoke_test=_smoke_test(path, sha256, record),
        path=path,
        record=record,
    )


def read_metadata(path: Path) -> bytes:
    """Return a wheel's METADATA file, byte for byte.

    Raises:
        UsageError: It can't be read as a wheel.
    """
    try:
        with Wheel(path) as wheel:
            return wheel.read(wheel.in_dist_info("METADATA"))
    except WheelError as error:
        raise UsageError(error.message, "Build it again.") from None


def _line(value: object) -> str:
    """Return a text as one line of printable characters, not too long; empty for None."""
    text = " ".join(str("" if value is None else value).split())[:500]
    return "".join(character if character.isprintable() else "?" for character in text)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if there is no such file."""
    try:
        values = read_json(path)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
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
    if re.fullmatch(r"[0-9]{3}", digits):
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


def _smoke_test(path: Path, sha256: str, record: Mapping[str, Any]) -> SmokeTest:
    """Return the smoke test's result from the report beside a wheel.

    A test that only imported the package, or that had no GPU, counts as not run. Without a report, the
    wheel's record says whether its build could import it.
    """
    report_path = path.with_name(path.name + SMOKETEST_SUFFIX)
    report = _read_json(report_path)
    if not report:
        checks = _table(record, "wheel").get("checks")
        unseen = isinstance(checks, list) and bool(checks) and IMPORTED not in checks
        return SmokeTest(detail="not imported" if unseen else "")
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
    if type(exit_code) is not int:  # false equals 0
        outcome = "not run"
    elif exit_code == 0 and report.get("mode") != "import-only":
        outcome = "passed"
    elif exit_code in _SMOKETEST_FAILURES:
        outcome = "failed"
    else:
        outcome = "not run"
    return SmokeTest(outcome, _line(report.get("headline")), _line(", ".join(part for part in on if part)))
