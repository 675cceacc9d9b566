"""What is checked of the wheels of a build before they are stored; qemu is a script."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.audited import GOOD, NATIVE, Library, changed, raw_wheel
from fakes.libraries import NAME
from fakes.provenance import PROVENANCE
from fakes.tools import program

from builder.check.new_wheels import check_new, find_emulator
from builder.finish.embed import embed
from builder.finish.store import IMPORTED
from builder.target.machines import MACHINES, this_machine
from builder.target.options import BuildOptions
from builder.util.errors import AuditError, ToolchainError

OTHER = next(machine for machine in MACHINES if not machine.is_here)
TARGET = replace(NATIVE, name=f"cp312-cu130-{OTHER.name}", platform_tag=f"manylinux_2_34_{OTHER.name}")


def other_wheel(folder: Path, **libraries: Library) -> Path:
    """A wheel of another machine."""
    number = {"AArch64": 183, "x64": 62}[OTHER.elf]
    theirs = {stem: replace(each, machine=number) for stem, each in {**GOOD, **libraries}.items()}
    wheel = raw_wheel(folder, theirs, name=NAME.replace("x86_64", OTHER.name))
    return embed(wheel, replace(PROVENANCE, target=TARGET), folder / "ours")


def test_a_wheel_that_this_machine_can_not_run_is_audited_and_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BuildOptions(cache_dir=tmp_path)
    checks = check_new([other_wheel(tmp_path)], TARGET, options, tmp_path, client_calls=False)
    assert "libraries" in checks
    assert IMPORTED not in checks
    assert f"the wheels were not imported: they are for {OTHER.name}" in capsys.readouterr().err


def test_a_wheel_that_fails_the_audit_is_an_error(tmp_path: Path) -> None:
    wheel = other_wheel(tmp_path, _fused=changed(needed=("libnobody.so.1",)))
    with pytest.raises(AuditError, match="needs libnobody"):
        check_new([wheel], TARGET, BuildOptions(cache_dir=tmp_path), tmp_path, client_calls=False)


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
