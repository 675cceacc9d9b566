"""Checks the wheels of a build before they are stored: the audit, and an import with nothing but torch."""

from __future__ import annotations

import platform
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from builder.check import audit, import_check
from builder.finish.store import IMPORTED
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain import torch_env
from builder.toolchain.emulator import find_emulator
from builder.util.log import say, warn


def check_new(
    wheels: Sequence[Path], target: Target, options: BuildOptions, scratch: Path, *, contract: bool
) -> list[str]:
    """Audit wheels, and import each with the session's torch and nothing else; return what was checked.

    `store.IMPORTED` is not in it where this machine can't run the wheels. With `contract`, other projects'
    names and calls have to be there.
    """
    checks: set[str] = set()
    for wheel in wheels:
        report = audit.audit_wheel(wheel, expect=target)
        say(audit.table([report]))
        report.raise_if_failed()
        checks.update(report.checks)
    if target.machine.is_here:
        command: Sequence[str] = (sys.executable,)
        site = torch_env.sites(target)[0]
    elif emulator := find_emulator(target, options):
        command, version = emulator
        site = torch_env.install_to_import(target, options, version)
    else:
        warn(
            f"the wheels were not imported: they are for {target.machine.name}, this is {platform.machine()}"
        )
        return sorted(checks)
    for wheel in wheels:
        folder = scratch / "unpacked" / wheel.stem
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        say(f"  {wheel.name}")
        for line in import_check.check(command, [site, folder], contract=contract):
            say(f"    {line}")
    return [*sorted(checks), IMPORTED]
