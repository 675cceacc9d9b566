"""Installed packages, with a digest of each.

An installed package no longer knows the digest of its wheel. What it still has is its RECORD (PyPA
specification "Recording installed projects"): the SHA-256 of each of its files. The digest of that list is
the same whichever installer wrote it, and stands in the wheel's place.
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

from builder.wheel.sbom import Component

# What installers write into the .dist-info folder themselves, each in its own way.
_INSTALLERS_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


@dataclass(frozen=True)
class Installed:
    """An installed package; its name is normalised: `nvidia-cuda-nvcc`."""

    name: str
    version: str
    files: Mapping[str, str]  # of its wheel: path in site-packages -> SHA-256, sorted

    @property
    def sha256(self) -> str:
        """The digest of the lines `<sha256>  <path>`; empty without files."""
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest() if lines else ""

    def component(self) -> Component:
        """Return the package as a build tool."""
        purl = f"pkg:pypi/{self.name}@{self.version}"
        return Component("build-tool", self.name, self.version, self.sha256, purl)


def installed_packages(site_packages: Path) -> tuple[Installed, ...]:
    """Return every package installed in a folder, sorted by name."""
    packages = []
    for distribution in importlib.metadata.distributions(path=[str(site_packages)]):
        # A folder left behind by an aborted uninstallation has no metadata, and so no name.
        if "Name" in distribution.metadata:
            name = canonicalize_name(distribution.metadata["Name"])
            files = _parse_record(distribution.read_text("RECORD") or "")
            packages.append(Installed(name, distribution.version, files))
    return tuple(sorted(packages, key=lambda package: package.name))


def _parse_record(text: str) -> dict[str, str]:
    """Return the files that a package's wheel brought, without what differs between installations.

    That is the installer's own notes, scripts (in `bin/` with `--target`), and files without a digest, such
    as byte code.
    """
    files = {}
    for path, digest, *_ in (row for row in csv.reader(text.splitlines()) if len(row) > 1):
        folder, _, name = path.rpartition("/")
        own = folder.endswith(".dist-info") and (name in _INSTALLERS_OWN or name.startswith("uv_"))
        algorithm, _, value = digest.partition("=")
        if algorithm == "sha256" and not path.startswith(("../", "/", "bin/")) and not own:
            files[path] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    return dict(sorted(files.items()))
