"""Makes Python environments, installs into them with uv, and lists what is installed.

An installed package no longer knows the digest of its wheel. What it still has is its RECORD (PyPA
specification "Recording installed projects"): the SHA-256 of each of its files. The digest of that list is
the same whichever installer wrote it, and stands in the wheel's place.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from builder.util import http, process
from builder.util.errors import DownloadError, TorchEnvironmentError
from builder.wheel.sbom import Component

_INDEX_SECONDS = 10
# What installers write into the .dist-info folder themselves, each in its own way.
_INSTALLERS_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


@dataclass(frozen=True)
class Installed:
    """An installed package: its normalised name, and the files of its wheel with their SHA-256, sorted."""

    name: str
    version: str
    files: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The digest of the lines `<sha256>  <path>`; empty without files."""
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest() if lines else ""

    def component(self) -> Component:
        """Return the package as a build tool."""
        purl = f"pkg:pypi/{self.name}@{self.version}"
        return Component("build-tool", self.name, self.version, self.sha256, purl)


def make_clean_venv(
    path: Path, python: str | Path, requirements: Sequence[str], torch_index: str | None = None
) -> Path:
    """Make a virtual environment that holds only what is asked for, and return its Python.

    Args:
        path: Its folder; an older one is replaced.
        python: A version (`3.12`) or the path of a Python.
        requirements: Requirements, or paths of wheels.
        torch_index: Package index for torch, used besides the default one if it can be reached.
    """
    if _uv("venv", "--quiet", "--clear", "--python", python, path) != 0:
        raise TorchEnvironmentError(
            f"No virtual environment with Python {python} could be made in {path}.",
            f"Install Python {python}.",
        )
    executable = path / "bin" / "python"
    index = torch_index if torch_index and not why_not_index(torch_index) else None
    if requirements and pip_install(executable, requirements, index) != 0:
        raise TorchEnvironmentError(
            f"{' '.join(requirements)} could not be installed for Python {python}; see above.",
            "Check that the package index can be reached, and has such a version for this Python.",
        )
    return executable


def install_wheel(python: Path, wheel: Path) -> None:
    """Install a wheel into an environment that meets its requirements, in place of an older one."""
    if pip_install(python, ["--reinstall-package", wheel.name.split("-")[0], wheel]) != 0:
        raise TorchEnvironmentError(
            f"{wheel.name} can't be installed; see above.", "Check that it is for this Python."
        )


def pip_install(python: Path, arguments: Sequence[str | Path], index: str | None = None) -> int:
    """Run `uv pip install`, and return its exit status; `index` is used besides the default index."""
    # The best version of all indexes, as pip does. By uv's own rule an index that mirrors one of the
    # compiler's packages in other versions would hide those of the default index.
    more = ["--index", index, "--index-strategy", "unsafe-best-match"] if index else []
    return _uv("pip", "install", "--python", python, *more, *arguments)


def why_not_index(index: str, torch: str = "") -> str:
    """Return why torch (of a version, `2.11.0`) can't come from a package index; empty if it can.

    A login page answers with status 200 too, so the page has to list such a torch.
    """
    url = f"{index.rstrip('/')}/torch/"
    try:
        page = http.get(url, timeout_seconds=_INDEX_SECONDS)
    except DownloadError as error:
        return error.message.removeprefix(f"{url}: ").rstrip(".")
    pattern = rf"torch-{re.escape(torch)}(?!\.?\d)" if torch else "torch-"
    if re.search(pattern.encode(), page) is None:
        return f"its page of torch lists no torch {torch}".rstrip()
    return ""


def installed_packages(site_packages: Path) -> tuple[Installed, ...]:
    """Return every package installed in a folder, sorted by name."""
    packages = []
    for distribution in importlib.metadata.distributions(path=[str(site_packages)]):
        # A folder left behind by an aborted uninstallation has no metadata, and so no name.
        if "Name" in distribution.metadata:
            name = canonicalize_name(distribution.metadata["Name"])
            files = _files_of_wheel(distribution.read_text("RECORD") or "")
            packages.append(Installed(name, distribution.version, files))
    return tuple(sorted(packages, key=lambda package: package.name))


def _files_of_wheel(record: str) -> dict[str, str]:
    """Return what RECORD lists, without what differs between installations.

    That is the installer's own notes, scripts (in `bin/` with `--target`), and byte code, without a digest.
    """
    files = {}
    for path, digest, *_ in (row for row in csv.reader(record.splitlines()) if len(row) > 1):
        folder, _, name = path.rpartition("/")
        own = folder.endswith(".dist-info") and (name in _INSTALLERS_OWN or name.startswith("uv_"))
        algorithm, _, value = digest.partition("=")
        if algorithm == "sha256" and not path.startswith(("../", "/", "bin/")) and not own:
            files[path] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    return dict(sorted(files.items()))


def _uv(*arguments: str | Path) -> int:
    return process.show([sys.executable, "-m", "uv", *arguments])
