"""What runs the Python of another machine; qemu is a script that runs this machine's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fakes.tools import program, target

from builder.check.new_wheels import find_emulator
from builder.target.machines import MACHINES, this_machine
from builder.target.options import BuildOptions
from builder.util.errors import ToolchainError

OTHER = next(machine.name for machine in MACHINES if not machine.is_here)
TARGET = target(platform_tag=f"manylinux_2_34_{OTHER}")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """A root with a Python, which says what machine it is on by the made-up qemu."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "root" / "usr" / "bin" / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return BuildOptions(cache_dir=tmp_path, machine_root=tmp_path / "root")


def qemu(tmp_path: Path, name: str, machine: str) -> Path:
    return program(
        tmp_path / "bin" / name, f'#!/bin/sh\n[ "$1" = -L ] && [ -x "$3" ] && echo {machine} 3.11\n'
    )


def test_without_a_root_nothing_is_emulated(tmp_path: Path) -> None:
    assert find_emulator(TARGET, BuildOptions(cache_dir=tmp_path)) is None


def test_qemu_runs_the_python_of_the_root(tmp_path: Path, options: BuildOptions) -> None:
    path = qemu(tmp_path, f"qemu-{OTHER}", OTHER)
    python = tmp_path / "root" / "usr" / "bin" / "python3"
    assert find_emulator(TARGET, options) == ((str(path), "-L", str(tmp_path / "root"), str(python)), "3.11")


def test_what_can_not_be_emulated_is_said(tmp_path: Path, options: BuildOptions) -> None:
    with pytest.raises(ToolchainError, match=f"There is no qemu-{OTHER}-static") as caught:
        find_emulator(TARGET, options)
    assert "apt install qemu-user-static" in caught.value.remedy
    qemu(tmp_path, f"qemu-{OTHER}-static", this_machine().name)
    with pytest.raises(ToolchainError, match=f"no usr/bin/python3 in it that runs on {OTHER}") as caught:
        find_emulator(TARGET, options)
    assert "tools/debian-root" in caught.value.remedy
    with pytest.raises(ToolchainError, match="is for this machine"):
        find_emulator(target(platform_tag=f"manylinux_2_34_{this_machine().name}"), options)
