"""The Pythons of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from builder.check.pythons import find_python, find_pythons, minor_of
from builder.util.errors import UsageError


@pytest.mark.parametrize(("version", "minor"), [("3.12.1", "3.12"), ("3.12", "3.12"), ("", "")])
def test_minor_versions(version: str, minor: str) -> None:
    assert minor_of(version) == minor


THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_this_python_and_one_that_is_not_here() -> None:
    assert find_python(THIS) == Path(sys.executable)
    assert find_python("3.99") is None
    assert find_pythons([THIS, "3.99"]) == ({THIS: Path(sys.executable)}, ["3.99"])


def test_a_python_by_its_path(tmp_path: Path) -> None:
    assert find_pythons([sys.executable]) == ({THIS: Path(sys.executable).resolve()}, [])
    with pytest.raises(UsageError, match="is not a Python that runs"):
        find_pythons([str(tmp_path / "python")])


def test_a_python_of_pyenv_stands_in_for_a_shim_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, lines in (("bin/python3.99", "exit 1"), ("versions/3.99.2/bin/python", "echo 3.99.2")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / path).chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert find_python("3.99") == tmp_path / "versions" / "3.99.2" / "bin" / "python"
