"""Finds packages that an interruption or a full disk left partly installed, by their RECORD.

An installer writes a package's `.dist-info` along with its other files, so the folder alone says nothing.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import shutil
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from builder.toolchain.materials import parse_record

_READ = (".dist-info/METADATA", "torch/version.py")


def damaged_packages(site_packages: Path) -> dict[str, str]:
    """Return what is wrong with each package that is not as its RECORD says, by the name of its .dist-info.

    Each file's size is compared, and the digest of what a build reads: headers, METADATA, torch's versions.

    Args:
        site_packages: The folder that the packages are installed in.
    """
    folders = sorted(path for path in site_packages.glob("*.dist-info") if path.is_dir())
    found = ((info.name, _damage(info)) for info in folders)
    return {name: damage for name, damage in found if damage}


def package_of(dist_info: str) -> str:
    """Return the name of the package that a folder such as `nvidia_cublas-13.1.0.3.dist-info` is of."""
    return dist_info.partition("-")[0].replace("_", "-")


def forget(site_packages: Path, dist_info: str) -> None:
    """Remove a package's .dist-info, so that an installer writes all its files again."""
    shutil.rmtree(site_packages / dist_info)


def _damage(info: Path) -> str:
    """What is wrong with one package; empty if all is right."""
    own = {f"{info.name}/RECORD", f"{info.name}/METADATA"}
    try:
        rows = list(csv.reader((info / "RECORD").read_text(encoding="utf-8").splitlines()))
        if missing := own - {row[0] for row in rows if row}:
            return f"its RECORD does not list {min(missing)}"
        for path, digest, size in filter(None, rows):
            # What an installer did not bring may change, such as byte code.
            if digest and not path.endswith(".pyc") and (damage := _compare(info.parent, path, digest, size)):
                return damage
        # What later steps read of every package.
        parse_record((info / "RECORD").read_text(encoding="utf-8"))
        distribution = importlib.metadata.Distribution.at(info)
        Version(str(distribution.metadata.get_all("Version", [""])[0]))
        for requirement in distribution.requires or ():
            Requirement(requirement)
    except FileNotFoundError:
        return "it has no RECORD"
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        return f"its METADATA or RECORD can't be read: {error}"
    return ""


def _compare(site_packages: Path, path: str, digest: str, size: str) -> str:
    file = site_packages / path
    try:
        size_bytes = file.stat().st_size
    except OSError:
        return f"{path} is missing"
    if size and size_bytes != int(size):
        return f"{path} is {size_bytes} bytes long, and not {size}"
    algorithm, _, value = digest.partition("=")
    if algorithm == "sha256" and ("/include/" in path or path.endswith(_READ)):
        actual = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest())
        if actual.rstrip(b"=").decode() != value.rstrip("="):
            return f"{path} has a different SHA-256"
    return ""
