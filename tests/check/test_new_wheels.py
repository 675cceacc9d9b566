"""What is checked of the wheels of a build before they are stored; qemu is a script."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.audited import NATIVE, changed, ours
from fakes.tools import program

from builder.check.checks import CHECKS
from builder.check.new_wheels import check_new, find_emulator
from builder.target.options import BuildOptions
from builder.target.targets import MACHINES, this_machine
from builder.util.errors import AuditError, ToolchainError

OTHER = next(machine for machine in MACHINES if not machine.is_here)
TARGET = replace(NATIVE, name=f"cp312-cu130-{OTHER.name}", platform_tag=f"manylinux_2_34_{OTHER.name}")


def test_what_this_machine_can_not_run_is_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = check_new([], TARGET, BuildOptions(cache_dir=tmp_path), tmp_path, client_calls=False)
    assert checks == sorted(CHECKS)  # and not the import
    assert f"wheels for {OTHER.name} were not imported" in capsys.readouterr().err


def test_a_wheel_that_fails_the_audit_is_an_error(tmp_path: Path) -> None:
    wheel = ours(tmp_path, _fused=changed(needed=("libnobody.so.1",)))
    with pytest.raises(AuditError, match=r"(?s)failed its audit:.*_fused\.so needs libnobody"):
        check_new([wheel], NATIVE, BuildOptions(cache_dir=tmp_path), tmp_path, client_calls=False)


def test_qemu_runs_the_python_of_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = '#!/bin/sh\n[ "$1" = -L ] && [ -x "$3" ] && echo {} 3.11\n'
    root, qemu = tmp_path / "root", tmp_path / "bin" / f"qemu-{OTHER.name}"
    python = program(root / "usr" / "bin" / "python3", "")
    monkeypatch.setenv("PATH", str(qemu.parent))
    options = BuildOptions(cache_dir=tmp_path)
    assert find_emulator(TARGET, options) is None
    options = replace(options, machine_root=root)
    with pytest.raises(ToolchainError, match=f"qemu-{OTHER.name}-static can't run the usr/bin/python3"):
        find_emulator(TARGET, options)
    program(qemu, script.format(this_machine().name))
    for target in (TARGET, NATIVE):
        with pytest.raises(ToolchainError, match="of another machine"):
            find_emulator(target, options)
    program(qemu, script.format(OTHER.name))
    assert find_emulator(TARGET, options) == ((str(qemu), "-L", str(root), str(python)), "3.11")
