"""The Pythons of this machine; none is downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from builder.util.process import output_of


def minor_of(version: str) -> str:
    """Return the minor version: `3.12` of `3.12.1`."""
    return ".".join(version.split(".")[:2])


def find_python(version: str) -> Path | None:
    """Return a Python of a minor version that runs; None where there is none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    found = output_of([sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", version])
    # pyenv's shims stand in the path, and all but one of them don't run.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found)] if found else []
    candidates += sorted(root.glob(f"versions/{minor_of(version)}.*/bin/python"), reverse=True)
    return next((path for path in candidates if minor_of(version_of(path)) == minor_of(version)), None)


def version_of(python: Path) -> str:
    """Return the full version of a Python; empty if it does not run."""
    return output_of([python, "-I", "-c", "import platform; print(platform.python_version())"]) or ""
