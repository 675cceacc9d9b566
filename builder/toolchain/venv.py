"""Makes Python environments, and installs into them with uv."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.util import http, process
from builder.util.errors import DownloadError, TorchEnvironmentError


def make_clean_venv(
    path: Path, python: str | Path, requirements: Sequence[str], torch_index: str | None = None
) -> Path:
    """Make a virtual environment in a folder, in place of an older one, and return its Python.

    `python` is a version or a path; `torch_index` is used besides the default one if it can be reached.
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
    """Install a wheel into an environment, in place of an older one."""
    name = wheel.name.split("-")[0]
    if pip_install(python, ["--reinstall-package", name, wheel]) != 0:
        raise TorchEnvironmentError(
            f"{wheel.name} can't be installed; see above.", "Check that it is for this Python."
        )


def pip_install(python: Path, arguments: Sequence[str | Path], index: str | None = None) -> int:
    """Run `uv pip install`, with an index besides the default one, and return the exit status."""
    # The best version of all indexes, as pip does: the other index may mirror a few versions only.
    more = ["--index", index, "--index-strategy", "unsafe-best-match"] if index else []
    return _uv("pip", "install", "--python", python, *more, *arguments)


def why_not_index(index: str, torch: str = "") -> str:
    """Return why torch (of a version, `2.11.0`) can't come from a package index; empty if it can."""
    url = f"{index.rstrip('/')}/torch/"
    try:
        page = http.get(url, timeout_seconds=10)
    except DownloadError as error:
        return error.message.removeprefix(f"{url}: ").rstrip(".")
    # A login page answers with status 200 too.
    pattern = rf"torch-{re.escape(torch)}(?!\.?\d)" if torch else "torch-"
    if re.search(pattern.encode(), page) is None:
        return f"its page of torch lists no torch {torch}".rstrip()
    return ""


def _uv(*arguments: str | Path) -> int:
    return process.show([sys.executable, "-m", "uv", *arguments])
