"""The entries of the index: what it says of each wheel, read from the wheel or an earlier `wheels.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.metadata import parse_email
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.finish.store import IMPORTED, read_record
from builder.smoketest.report import ExitCode
from builder.util.errors import UsageError
from builder.util.files import file_sha256
from builder.wheel import sbom
from builder.wheel.label import WheelError, WheelLabel, torch_requirement
from builder.wheel.wheelfile import Wheel

METADATA_SUFFIX = ".metadata"
SMOKETEST_SUFFIX = ".smoketest.json"


@dataclass(frozen=True)
class IndexEntry:
    """A wheel in the index; texts that are not known are empty.

    Attributes:
        filename: From which its version, Python, CUDA and folder are read.
        torch: Version specifier of the torch that it requires: `==2.11.*` or `>2.8.9999`.
        architectures: Compute capabilities that it holds code for.
        complete: Whether it holds all architectures of its target.
        verified: Whether its SBOM says that it was built from the verified release.
        metadata_sha256: The SHA-256 of its METADATA (PEP 658).
        smoke_test: Its `outcome` (`passed`, `failed` or `not run`), the report's one line as `detail`, and
            the GPU and the torch that it ran `on`.
        url: Its address in the index, absolute or relative to the site.
        uploaded: When it was published, as PEP 700 writes a time: `2026-11-28T20:15:00Z`.
    """

    filename: str
    torch: str
    requires_python: str
    summary: str
    architectures: Sequence[str]
    complete: bool
    verified: bool
    sha256: str
    size_bytes: int
    metadata_sha256: str
    smoke_test: Mapping[str, str]
    url: str = ""
    uploaded: str = ""

    @property
    def label(self) -> WheelLabel:
        """Its file name in parts."""
        return WheelLabel.parse(self.filename)

    @property
    def project(self) -> str:
        """Normalised project name (PEP 503)."""
        return canonicalize_name(self.label.distribution)

    @property
    def release(self) -> str:
        """The version without its local label: `2.2.0`."""
        return self.label.version.partition("+")[0]

    @property
    def cuda(self) -> str:
        """The CUDA version as PyTorch writes it: `cu130`."""
        return f"cu{self.label.cuda.replace('.', '')}"

    @property
    def portable(self) -> bool:
        """Whether its tag promises a glibc (PEP 600), so that pip can refuse it on an older system."""
        return not self.label.platform.startswith("linux_")

    @property
    def folder(self) -> str:
        """The site's folder for it and its METADATA, made from parts of its file name alone."""
        return f"{self.cuda}/{self.project}" if self.portable else "basic"

    @property
    def beside_the_index(self) -> bool:
        """Whether it is served from the index's own site: its address is relative."""
        return not self.url.startswith(("http://", "https://"))

    @property
    def oldest_python(self) -> int:
        """The minor version of the oldest Python 3 that it is for; a universal wheel is for newer ones."""
        text = self.requires_python if self.label.universal else self.label.python
        return int(re.findall(r"3\.?(\d+)", text)[0])

    @property
    def oldest_torch(self) -> int:
        """The minor version of the oldest torch 2 that it is for; a universal wheel is for newer ones.

        `>2.8.9999` is for 2.9 and its pre-releases, such as NVIDIA's `2.9.0a0`, which `>=2.9` shuts out.
        """
        return int(re.findall(r"2\.(\d+)", self.torch)[0]) + self.torch.endswith(".9999")

    @property
    def human_python(self) -> str:
        """The Python versions that it is for: `3.12`, or `3.10 and newer`."""
        return f"3.{self.oldest_python}{' and newer' * self.label.universal}"

    @property
    def human_torch(self) -> str:
        """The torch versions that it is for: `2.11`, or `2.9 and newer`."""
        return f"2.{self.oldest_torch}{' and newer' * self.label.universal}"

    def as_json(self) -> dict[str, Any]:
        """Return it as `wheels.json` has it: with the parts of its file name."""
        label = self.label
        python = label.python if label.abi == label.python else f"{label.python}-{label.abi}"
        parts = {"project": self.project, "version": label.version, "cuda": self.cuda, "python": python}
        return {**dataclasses.asdict(self), **parts, "platform": label.platform}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IndexEntry:
        """Return what `as_json` returned; anything else is a KeyError or TypeError."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def newest_first(entries: Iterable[IndexEntry]) -> list[IndexEntry]:
    """Sort entries: the newest version, CUDA version and revision first, universal wheels before others."""

    def place(entry: IndexEntry) -> tuple[object, ...]:
        label = entry.label
        return not label.universal, -label.revision, label.python, label.machine == "aarch64", entry.filename

    ordered = sorted(entries, key=place)
    return sorted(ordered, key=lambda entry: (Version(entry.release), entry.cuda), reverse=True)


def find_wheels(names: Sequence[str], wheelhouse: Path) -> list[Path]:
    """Return the named wheels, or all of the wheelhouse, sorted by name; UsageError if there is none."""
    paths = [Path(name) for name in names] or [*wheelhouse.glob("*.whl")]
    if not paths:
        raise UsageError(f"There is no wheel in {wheelhouse}.", "Build one: `nox -l` lists the targets.")
    return sorted(paths, key=lambda path: path.name)


class ForeignWheelError(UsageError):
    """A file that is not a wheel, or not one of this project."""


def read_entry(path: Path) -> IndexEntry:
    """Read a wheel of this project, and the report of its smoke test.

    Raises:
        ForeignWheelError: It is not a wheel, or not one of this project.
        UsageError: The report is damaged, or not of this wheel.
    """
    provenance, metadata, sha256 = read_sbom(path), read_metadata(path), file_sha256(path)
    headers, _ = parse_email(metadata)
    torch = torch_requirement(headers.get("requires_dist"))
    return IndexEntry(
        filename=path.name,
        torch=str(torch.specifier) if torch else "",
        requires_python=headers.get("requires_python", ""),
        summary=headers.get("summary", ""),
        architectures=provenance.subject.properties.get("architectures", "").split(),
        complete=not WheelLabel.parse(path.name).architectures,
        verified=provenance.verified,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        smoke_test=_smoke_test(path, sha256),
    )


def read_sbom(path: Path) -> sbom.Sbom:
    """Return the SBOM of a wheel of this project; of any other file, ForeignWheelError is raised."""
    message = f"{path} is not of this project: an SBOM, or a CUDA version, is missing."
    try:
        with Wheel(path) as wheel:
            provenance = sbom.read(wheel)
        if provenance is not None and wheel.label.cuda:
            return provenance
    except WheelError as error:
        message = error.message
    raise ForeignWheelError(message, "Move it away, or name the wheels to publish.")


def read_metadata(path: Path) -> bytes:
    """Return a wheel's METADATA file, byte for byte."""
    with Wheel(path) as wheel:
        return wheel.read(wheel.in_dist_info("METADATA"))


def _smoke_test(wheel: Path, sha256: str) -> dict[str, str]:
    """Return the result from the report beside a wheel; a run that only imported counts as not run."""
    path = wheel.with_name(wheel.name + SMOKETEST_SUFFIX)
    if not path.is_file():
        checks = read_record(wheel).get("checks")
        detail = "not imported" if checks and IMPORTED not in checks else ""
        return {"outcome": "not run", "detail": detail, "on": ""}
    remedy = "Run the smoke test again, or move the report away."
    try:
        report = json.loads(path.read_bytes())
        tested, exit_code, detail = report["wheel"]["sha256"], report["exit_code"], report["headline"]
        only_imported = report["mode"] == "import-only"
        gpu, torch = (report["environment"].get(name) for name in ("gpu", "torch"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the report of a smoke test: {error!r}.", remedy) from None
    if tested != sha256:
        message = f"{path}: it has a different SHA-256: {tested}. The wheel's is {sha256}."
        raise UsageError(message, remedy)
    failures = (ExitCode.FAILURES, ExitCode.SAGEATTENTION_NOT_IMPORTABLE)
    passed = exit_code == ExitCode.PASS and not only_imported
    outcome = "failed" if exit_code in failures else "passed" if passed else "not run"
    on = ", ".join(part for part in (gpu, f"torch {torch}" if torch else "") if part)
    return {"outcome": outcome, "detail": detail, "on": on}
