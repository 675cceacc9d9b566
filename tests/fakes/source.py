"""A small directory of the shape of SageAttention's, and archives of it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.target.targets import Release
from builder.util.files import file_sha256

COMMIT = "eb615cf6cf4d221338033340ee2de1c37fbdba4a"

COPIED = {
    "README.md",
    "csrc/fused/fused.cu",
    "sageattention/__init__.py",
    "sageattention/build/kept.py",
    "setup.py",
    "tools/run.sh",
}
# What of it a build reads.
READ = COPIED - {"tools/run.sh"}


def make_checkout(root: Path) -> Path:
    """Make a directory of SageAttention's shape, with what builds leave in one."""
    for name, text in {
        "setup.py": "from setuptools import setup\nsetup(name='sageattention', version='2.2.1.dev3')\n",
        "csrc/fused/fused.cu": "__global__ void kernel() {}\n",
        "sageattention/__init__.py": "from .core import sageattn\n",
        "sageattention/build/kept.py": "# a module named build is no build folder\n",
        "sageattention/_fused.cpython-312-x86_64-linux-gnu.so": "an old build's",
        "sageattention/__pycache__/core.cpython-312.pyc": "old",
        "sageattention.egg-info/PKG-INFO": "old",
        "build/temp/fused.o": "old",
        "dist/old.whl": "old",
        ".venv/pyvenv.cfg": "home = /usr",
        ".venv/lib/huge.py": "old",
        "tools/run.sh": "#!/bin/sh\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "tools" / "run.sh").chmod(0o755)
    (root / "README.md").symlink_to("tools/run.sh")
    return root


def sums(root: Path, names: Iterable[str] = READ) -> dict[str, str]:
    """The SHA-256 of each of these files, by its path."""
    return {name: file_sha256(root / name) for name in sorted(names)}


def pack(checkout: Path, archive: Path, level: int = 9) -> Path:
    """Make an archive of a directory, as forges do."""
    headers = {"comment": COMMIT}
    with tarfile.open(
        archive, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers, compresslevel=level
    ) as tar:
        for name in sorted(COPIED):
            tar.add(checkout / name, f"SageAttention-2.2.0/{name}")
    return archive


def release(files: Mapping[str, str], url: str, sha256: str = "0" * 64, *mirrors: str) -> Release:
    """A release to build."""
    return Release(
        version="2.2.0",
        revision=2,
        tag="v2.2.0",
        commit=COMMIT,
        url=url,
        mirrors=mirrors,
        sha256=sha256,
        files=files,
        source_date_epoch=1761613216,
        license="Apache-2.0",
        architectures=(),
    )


def files(root: Path) -> set[str]:
    """The path of every file of a tree."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
