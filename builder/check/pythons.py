"""The Pythons of this machine; none is downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from builder.util.process import output_of

_PRINT_MINOR = """
import sys, sysconfig
print("{}.{}".format(*sys.version_info), end="t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
"""


def minor_of(version: str) -> str:
    """Return the minor version: `3.12` of `3.12.1`, `3.14t` of a free-threaded `3.14.2t`."""
    return ".".join(version.rstrip("t").split(".")[:2]) + "t" * version.endswith("t")


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
    return output_of([python, "-I", "-c", _PRINT_MINOR]) or ""
