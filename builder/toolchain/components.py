"""What a build is made with: packages and archives by name, version and digest.

An installed package no longer knows the digest of its wheel. What it still has is its RECORD (PyPA
specification "Recording installed projects"): the SHA-256 of each of its files. The digest over that list
identifies the same content whichever installer wrote it, and is given in the wheel's place.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

# What installers write into the .dist-info folder themselves, each in its own way.
_INSTALLERS_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


@dataclass(frozen=True)
class Component:
    """Something that a wheel was built with.

    Attributes:
        name: `nvidia-cuda-nvcc`.
        version: `13.0.88`.
        sha256: Its digest, lower-case hexadecimal; None where there is none.
        purl: Its package URL (purl specification); None where it has none.
        sha256_of: What the digest is of: `archive` (the downloaded file), `files` (the list of the
            installed files and their digests, see `content_sha256`), `program` (one executable), or empty.
    """

    name: str
    version: str
    sha256: str | None
    purl: str | None
    sha256_of: str = ""


@dataclass(frozen=True)
class InstalledFile:
    """A file of an installed package.

    Attributes:
        path: Relative to site-packages, as RECORD has it.
        sha256: Lower-case hexadecimal.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Installed:
    """An installed package.

    Attributes:
        name: Normalised (`nvidia-cuda-nvcc`).
        version: `13.0.88`.
        files: The files that came with its wheel, sorted by path.
    """

    name: str
    version: str
    files: tuple[InstalledFile, ...]

    def component(self) -> Component:
        """The package as a component, with a digest of its files."""
        return Component(
            name=self.name,
            version=self.version,
            sha256=content_sha256(self.files) if self.files else None,
            purl=f"pkg:pypi/{self.name}@{self.version}",
            sha256_of="files" if self.files else "",
        )


def installed_packages(site_packages: Path) -> tuple[Installed, ...]:
    """Every package installed in a folder, sorted by name.

    Args:
        site_packages: The folder.
    """
    found = []
    for distribution in importlib.metadata.distributions(path=[str(site_packages)]):
        # A folder left behind by an aborted uninstallation has no metadata, and so no name.
        name = distribution.metadata["Name"]
        if name:
            record = distribution.read_text("RECORD") or ""
            files = parse_record(record)
            found.append(Installed(canonicalize_name(name), distribution.version, files))
    return tuple(sorted(found, key=lambda package: package.name))


def installed_components(site_packages: Path) -> tuple[Component, ...]:
    """Every package installed in a folder as a component, sorted by name.

    Args:
        site_packages: The folder.
    """
    return tuple(package.component() for package in installed_packages(site_packages))


def parse_record(text: str) -> tuple[InstalledFile, ...]:
    """The files that a package's wheel brought, from its RECORD.

    Left out is what differs from one installation to the next: the installer's own notes, scripts outside
    site-packages, and files without a digest, such as byte code.

    Args:
        text: The content of RECORD.
    """
    files = []
    for row in csv.reader(text.splitlines()):
        if len(row) < 2:
            continue
        path, digest = row[0], row[1]
        algorithm, _, value = digest.partition("=")
        if algorithm != "sha256" or path.startswith(("../", "/")) or _is_installers_own(path):
            continue
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        files.append(InstalledFile(path, raw.hex()))
    return tuple(sorted(files, key=lambda file: file.path))


def content_sha256(files: Iterable[InstalledFile]) -> str:
    """One digest for a list of files: that of its lines `<sha256>  <path>`, sorted by path.

    Args:
        files: Paths and their digests.
    """
    lines = (f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_installers_own(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.endswith(".dist-info") and (name in _INSTALLERS_OWN or name.startswith("uv_"))
