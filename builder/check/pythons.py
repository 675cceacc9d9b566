"""The Pythons of this machine; none is downloaded."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.version import Version

from builder.util.errors import UsageError
from builder.util.process import answer

OLDEST_MINOR, NEWEST_MINOR = 10, 15


def minor_of(version: str) -> str:
    """Return the minor version: `3.12` of `3.12.1`."""
    return ".".join(version.split(".")[:2])


def find_python(version: str) -> Path | None:
    """Return a Python of a minor version that runs; None where there is none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    return next(
        (path for path in _candidates(version) if minor_of(_version_of(path)) == minor_of(version)), None
    )


def find_pythons(asked: Sequence[str] = ()) -> tuple[dict[str, Path], list[str]]:
    """Find several Pythons.

    Args:
        asked: Versions and paths; every version from 3.10 on by default.

    Returns:
        The Pythons by minor version, oldest first, and the minor versions that are not here.

    Raises:
        UsageError: A path is not that of a Python.
    """
    found: dict[str, Path] = {}
    absent = []
    for one in asked or [f"3.{minor}" for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)]:
        if "/" in one:
            version = _version_of(Path(one))
            if not version:
                raise UsageError(f"{one} is not a Python that runs.", "Give a version, or a Python's path.")
            found[minor_of(version)] = Path(one).resolve()
        elif (python := find_python(one)) is not None:
            found[minor_of(one)] = python
        else:
            absent.append(minor_of(one))
    return dict(sorted(found.items(), key=lambda item: Version(item[0]))), absent


def _candidates(version: str) -> Iterable[Path]:
    command = [sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", version]
    if found := answer(command) or shutil.which(f"python{version}"):
        yield Path(found)
    # pyenv's shims stand in the path, and all but one of them don't run.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob(f"versions/{minor_of(version)}.*/bin/python"), reverse=True)


def _version_of(python: Path) -> str:
    """Return the full version of a Python; empty if it does not run."""
    return answer([python, "-I", "-c", "import platform; print(platform.python_version())"]) or ""
