"""The Pythons of this machine; none is downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from packaging.version import Version

from builder.util.process import output_of

_MINOR = "import sys, sysconfig; v = sys.version_info; t = sysconfig.get_config_var('Py_GIL_DISABLED')"
_MINOR += "; print(f'{v.major}.{v.minor}' + 't' * bool(t))"


def minor_of(version: str) -> str:
    """Return the minor version: `3.12` of `3.12.1`, `3.14t` of a free-threaded `3.14.2t`."""
    return ".".join(version.rstrip("t").split(".")[:2]) + "t" * version.endswith("t")


def by_version(version: str) -> tuple[Version, str]:
    """Return a key to sort by: `3.14t` is after `3.14`."""
    return Version(version.rstrip("t")), version


def find_python(version: str) -> Path | None:
    """Return a Python of a minor version that runs; None where there is none."""
    minor = minor_of(version)
    if minor == minor_version(Path(sys.executable)):
        return Path(sys.executable)
    found = output_of([sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", version])
    # pyenv's shims stand in the path, and all but one of them don't run.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found)] if found else []
    candidates += sorted(root.glob(f"versions/{minor.rstrip('t')}.*/bin/python"), reverse=True)
    return next((path for path in candidates if minor_version(path) == minor), None)


def minor_version(python: Path) -> str:
    """Return the minor version of a Python; empty if it does not run."""
    return output_of([python, "-I", "-c", _MINOR]) or ""
