"""The script that makes the root of a system of another machine: what it refuses before any download."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.target.targets import MACHINES
from builder.util.files import ROOT

SCRIPT = ROOT / "tools" / "debian-root"


def refused(*arguments: str | Path) -> str:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    return done.stderr


def test_what_it_can_not_make_is_refused(tmp_path: Path) -> None:
    assert "usage: tools/debian-root MACHINE DIR" in refused()
    assert "riscv64 is not aarch64 or x86_64" in refused("riscv64", tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("machine", [machine.name for machine in MACHINES])
def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, machine: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is there already" in refused(machine, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
