"""What a wheel is made of and made with, by name, version and digest.

An installed package no longer knows the digest of its wheel. What it still has is its RECORD (PyPA
specification "Recording installed projects"): the SHA-256 of each of its files. The digest of that list
identifies the same content whichever installer wrote it, and stands in the wheel's place.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

# What installers write into the .dist-info folder themselves, each in its own way.
_INSTALLERS_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


# The SBOM's serial number is made of these by their repr, so a change here changes every wheel.
@dataclass(frozen=True, order=True)
class Material:
    """Something that went into a wheel, or that a wheel was made with.

    Attributes:
        kind: `source`, `patch`, `patch-file` (what a patch adds), `build-tool`, `extension` (a library that
            was compiled), `library` (a bundled one), or `wheel`.
        name: What it is called; for files of the wheel their name in it.
        version: Empty without one.
        sha256: Of its bytes, or of an installed package's files (`content_sha256`); empty if not known.
        purl: Package URL; empty without one.
        license: SPDX expression; empty if it isn't ours to say.
        url: Where it came from; empty if it came from no address.
        properties: Further facts as (name, value), sorted.
    """

    kind: str
    name: str
    version: str = ""
    sha256: str = ""
    purl: str = ""
    license: str = ""
    url: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def fact(self, name: str) -> str:
        """Return one of the properties; empty without it."""
        return dict(self.properties).get(name, "")


@dataclass(frozen=True)
class Installed:
    """An installed package.

    Attributes:
        name: Normalised: `nvidia-cuda-nvcc`.
        version: `13.0.88`.
        files: The files of its wheel, as `parse_record` returns them.
    """

    name: str
    version: str
    files: Mapping[str, str]

    def material(self) -> Material:
        """Return the package as a build tool, with a digest of its files."""
        sha256 = content_sha256(self.files) if self.files else ""
        return Material("build-tool", self.name, self.version, sha256, f"pkg:pypi/{self.name}@{self.version}")


def installed_packages(site_packages: Path) -> tuple[Installed, ...]:
    """Return every package installed in a folder, sorted by name."""
    found = []
    for distribution in importlib.metadata.distributions(path=[str(site_packages)]):
        # A folder left behind by an aborted uninstallation has no metadata, and so no name.
        if "Name" in distribution.metadata:
            name = canonicalize_name(distribution.metadata["Name"])
            files = parse_record(distribution.read_text("RECORD") or "")
            found.append(Installed(name, distribution.version, files))
    return tuple(sorted(found, key=lambda package: package.name))


def parse_record(text: str) -> dict[str, str]:
    """Return the files that a package's wheel brought: path in site-packages -> SHA-256, sorted.

    Left out is what differs from one installation to the next: the installer's own notes, scripts outside
    site-packages, and files without a digest, such as byte code. `importlib.metadata` reads RECORD too,
    but from Python 3.12 on it leaves out files that are missing, and these have to be reported.

    Args:
        text: The content of RECORD.
    """
    files = {}
    for path, digest, *_ in (row for row in csv.reader(text.splitlines()) if len(row) > 1):
        algorithm, _, value = digest.partition("=")
        if algorithm == "sha256" and not path.startswith(("../", "/")) and not _is_installers_own(path):
            files[path] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    return dict(sorted(files.items()))


def content_sha256(files: Mapping[str, str]) -> str:
    """Return one digest for a list of files: that of its lines `<sha256>  <path>`, sorted by path.

    Args:
        files: Path -> SHA-256.
    """
    lines = (f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_installers_own(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.endswith(".dist-info") and (name in _INSTALLERS_OWN or name.startswith("uv_"))
