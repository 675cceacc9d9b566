"""What is checked of the wheels of a build before they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import EXTENSIONS, NAME, NATIVE, raw_wheel, told
from made_up_libraries import Elf

from builder.check.new_wheels import check_new
from builder.finish.finalize import finalize
from builder.finish.record import IMPORTED
from builder.target.machines import MACHINES
from builder.target.options import BuildOptions
from builder.util.errors import AuditError

OTHER = next(machine for machine in MACHINES if not machine.is_here)
TARGET = replace(NATIVE, name=f"cp312-cu130-{OTHER.name}", platform_tag=f"manylinux_2_34_{OTHER.name}")


def made(folder: Path, **changes: Elf) -> Path:
    """A wheel of another machine."""
    number = {"AArch64": 183, "x64": 62}[OTHER.elf]
    elves = {stem: replace(elf, machine=number) for stem, elf in {**EXTENSIONS, **changes}.items()}
    wheel = raw_wheel(folder, NAME.replace("x86_64", OTHER.name), elves)
    return finalize(wheel, replace(told(), target=TARGET), folder / "ours")


def test_a_wheel_that_this_machine_can_not_run_is_audited_and_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BuildOptions(cache_dir=tmp_path)
    checks = check_new([made(tmp_path)], TARGET, options, tmp_path, contract=False)
    assert "libraries" in checks
    assert IMPORTED not in checks
    assert f"the wheels were not imported: they are for {OTHER.name}" in capsys.readouterr().err


def test_a_wheel_that_fails_the_audit_is_an_error(tmp_path: Path) -> None:
    wheel = made(tmp_path, _fused=replace(EXTENSIONS["_fused"], needed=["libnobody.so.1"]))
    with pytest.raises(AuditError, match="needs libnobody"):
        check_new([wheel], TARGET, BuildOptions(cache_dir=tmp_path), tmp_path, contract=False)
