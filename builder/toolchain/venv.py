"""Makes Python environments, and installs into them with uv."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import requests

from builder.util import process
from builder.util.answers import send
from builder.util.errors import TorchEnvironmentError
from builder.util.limits import REACHABLE_SECONDS
from builder.util.log import warn


def make_clean_venv(
    path: Path, python: str | Path, requirements: Sequence[str], torch_index: str | None = None
) -> Path:
    """Make a virtual environment that holds only what is asked for.

    Args:
        path: Its folder; an older one is replaced.
        python: A version (`3.12`) or the path of a Python.
        requirements: What is installed: requirements, or paths of wheels.
        torch_index: Package index for torch, tried before the default one; None is the default one.

    Returns:
        The venv's Python.

    Raises:
        TorchEnvironmentError: The venv can't be made, or something can't be installed.
    """
    if _uv("venv", "--quiet", "--clear", "--python", python, path) != 0:
        raise TorchEnvironmentError(
            f"No virtual environment with Python {python} could be made in {path}.",
            f"Install Python {python}.",
        )
    executable = path / "bin" / "python"
    index = torch_index if torch_index and not why_unreachable(torch_index) else None
    if requirements and pip_install(executable, requirements, index) != 0:
        raise TorchEnvironmentError(
            f"{' '.join(requirements)} could not be installed for Python {python}; see above.",
            "Check that the package index can be reached, and has such a version for this Python.",
        )
    return executable


def install_wheel(python: Path, wheel: Path) -> None:
    """Install a wheel into an environment that meets its requirements, in place of an older one.

    Args:
        python: The environment's Python.
        wheel: The wheel.

    Raises:
        TorchEnvironmentError: It does not fit this Python, or the environment does not meet its requirements.
    """
    name = wheel.name.split("-")[0]
    if pip_install(python, ["--reinstall-package", name, wheel]) != 0:
        raise TorchEnvironmentError(
            f"{wheel.name} can't be installed; see above.", "Check that it is for this Python."
        )


def pip_install(python: Path, arguments: Sequence[str | Path], index: str | None = None) -> int:
    """Install into an environment, and return the exit status; the user sees what uv prints.

    Args:
        python: The environment's Python.
        arguments: Requirements, paths of wheels, and options of `uv pip install`.
        index: Package index that is used besides the default one.
    """
    return _uv(*_install(python, arguments, index))


def is_cached(python: Path, arguments: Sequence[str | Path], index: str | None = None) -> bool:
    """Return whether uv's cache has all that `pip_install` would install with the same arguments."""
    command = [sys.executable, "-m", "uv", *_install(python, arguments, index), "--dry-run", "--offline"]
    try:
        return "Would download" not in process.run(command).errors
    except process.CommandError:
        return False


def cache_folder() -> Path:
    """Return the folder of uv's cache."""
    return Path(process.answer([sys.executable, "-m", "uv", "cache", "dir"]) or tempfile.gettempdir())


def pip_uninstall(python: Path, name: str) -> int:
    """Remove a package from an environment, and return the exit status."""
    return _uv("pip", "uninstall", "--python", python, name)


def why_unreachable(index: str) -> str:
    """Return why a package index can't serve torch; empty if it can.

    Args:
        index: Its address.
    """
    try:
        address = f"{index.rstrip('/')}/torch/"
        with send(requests.Session(), "GET", address, timeout=REACHABLE_SECONDS, stream=True) as answer:
            return "" if answer.ok else f"it answers {answer.status_code} {answer.reason}"
    except requests.ConnectionError:
        return "no connection"
    except requests.RequestException as error:
        return type(error).__name__


def _install(python: Path, arguments: Sequence[str | Path], index: str | None) -> list[str | Path]:
    # The best version of all indexes, as pip does. By uv's own rule an index that mirrors one of the
    # compiler's packages in other versions would hide those of the default index.
    more = ["--index", index, "--index-strategy", "unsafe-best-match"] if index else []
    return ["pip", "install", "--python", python, *more, *arguments]


def _uv(*arguments: str | Path) -> int:
    try:
        return process.show([sys.executable, "-m", "uv", *arguments])
    except process.CommandError as error:
        warn(error.message)
        return 127
