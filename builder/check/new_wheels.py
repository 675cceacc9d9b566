"""Checks the wheels of a build before they are stored: the audit, and an import with nothing but torch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.check import audit, audit_report, import_check
from builder.finish.record import IMPORTED
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain.emulator import find_emulator
from builder.toolchain.machine_packages import for_machine
from builder.toolchain.torch_packages import choose_index, install_from
from builder.toolchain.venv import install_wheel, make_clean_venv
from builder.util.log import say, warn


def check_new(
    wheels: Sequence[Path], target: Target, options: BuildOptions, scratch: Path, *, contract: bool
) -> list[str]:
    """Audit wheels, and import each in a new environment with only torch.

    Args:
        wheels: All wheels of a build.
        target: What was built.
        options: `no_patches`, `torch_index` and `machine_root` count.
        scratch: Where the environment is made.
        contract: Whether other projects' names and calls have to be there.

    Returns:
        What was checked. `record.IMPORTED` is not in it where this machine can't run the wheels.

    Raises:
        AuditError: A wheel failed, or can't be imported.
        TorchEnvironmentError: The environment can't be made.
    """
    checks: set[str] = set()
    for wheel in wheels:
        report = audit.audit_wheel(
            wheel,
            expect=target,
            house_rules=not options.no_patches,
            waive=audit.UNPATCHED if options.no_patches else frozenset(),
        )
        say(audit_report.table([report]))
        report.raise_if_failed()
        checks.update(report.checks)
    if target.machine.is_here:
        _import_here(wheels, target, options, scratch / "venv", contract=contract)
    elif options.machine_root:
        _import_emulated(wheels, target, options, scratch / "site-packages", contract=contract)
    else:
        warn(
            f"the wheels were not imported: they are for {target.machine.name}, this is {platform.machine()}"
        )
        return sorted(checks)
    return [*sorted(checks), IMPORTED]


def _import_here(
    wheels: Sequence[Path], target: Target, options: BuildOptions, venv: Path, *, contract: bool
) -> None:
    index = options.torch_index or target.torch_index
    python = make_clean_venv(venv, sys.executable, [f"torch=={target.torch}"], index)
    # Upstream links its Hopper extension to the driver.
    tolerated = [import_check.NO_DRIVER] if options.no_patches else []
    for wheel in wheels:
        install_wheel(python, wheel)
        _say(wheel, import_check.check(python, tolerate=tolerated, contract=contract))


def _import_emulated(
    wheels: Sequence[Path], target: Target, options: BuildOptions, site: Path, *, contract: bool
) -> None:
    emulator = find_emulator(target, options)
    assert emulator is not None
    into, here = for_machine(target, site, emulator.version), Path(sys.executable)
    install_from(choose_index(target, options), target, options, here, [*into, f"torch=={target.torch}"])
    for wheel in wheels:
        name = wheel.name.split("-")[0]
        install_from(None, target, options, here, [*into, "--no-deps", "--reinstall-package", name, wheel])
        python, command = emulator.python, emulator.command
        _say(wheel, import_check.check(python, contract=contract, emulator=command, site=site))


def _say(wheel: Path, lines: Sequence[str]) -> None:
    say(f"  {wheel.name}")
    for line in lines:
        say(f"    {line}")
