"""Checks the wheels of a build before they are stored: the audit, and an import with nothing but torch."""

from __future__ import annotations

import platform
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.check import audit, probe
from builder.check.checks import CHECKS
from builder.finish.store import IMPORTED
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain import torch_env
from builder.util.errors import AuditError, ToolchainError
from builder.util.log import say, warn
from builder.util.process import output_of


def check_new(
    wheels: Sequence[Path], target: Target, options: BuildOptions, scratch: Path, *, client_calls: bool
) -> list[str]:
    """Audit wheels, and import each with the session's torch and nothing else; return what was checked.

    `store.IMPORTED` is not in it where this machine can't run the wheels. With `client_calls`, other
    projects' names and calls have to be there.
    """
    checks = sorted(CHECKS)
    for wheel in wheels:
        report = audit.audit_wheel(wheel, expect=target)
        say(audit.table(report))
        if report.errors:
            raise AuditError(f"{wheel.name} failed its audit:\n    " + "\n    ".join(report.errors))
    if target.machine.is_here:
        command: Sequence[str] = (sys.executable,)
        site = torch_env.sites(target)[0]
    elif emulator := find_emulator(target, options):
        command, version = emulator
        site = torch_env.install_to_import(target, options, version)
    else:
        warn(f"wheels for {target.machine.name} were not imported: this machine is {platform.machine()}")
        return checks
    for wheel in wheels:
        folder = scratch / "unpacked" / wheel.stem
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        flags = ["--client-calls"] if client_calls else []
        say(f"  {wheel.name}\n    {imported(probe.run(command, [site, folder], options=flags))}")
    return [*checks, IMPORTED]


def imported(found: dict[str, Any]) -> str:
    """Return a line that says what `probe.run` imported; AuditError where it found problems."""
    if found["problems"]:
        raise AuditError("sageattention can't be used:\n    " + "\n    ".join(found["problems"]))
    where = f"Python {found['python']}, torch {found['torch']} (CUDA {found['cuda']})"
    loaded = ", ".join(name for name, loaded in found["extensions"].items() if loaded)
    return f"{where}: {found['version']} imported, {len(found['operators'])} operators of {loaded}"


def find_emulator(target: Target, options: BuildOptions) -> tuple[tuple[str, ...], str] | None:
    """Return the command that runs Python of a target's machine, and its version; None without a root."""
    root, machine = options.machine_root, target.machine
    if root is None:
        return None
    names = (f"qemu-{machine.name}-static", f"qemu-{machine.name}")
    qemu = next(filter(None, map(shutil.which, names)), names[0])
    command = (qemu, "-L", str(root), str(root / "usr" / "bin" / "python3"))
    code = "import platform, sys; print(platform.machine(), '%d.%d' % sys.version_info[:2])"
    name, _, version = (output_of([*command, "-I", "-c", code]) or "").partition(" ")
    if name != machine.name or machine.is_here:
        raise ToolchainError(
            f"--machine-root {root}: {qemu} can't run the usr/bin/python3 of another machine there.",
            "Install qemu (`apt install qemu-user-static`, or with dnf), make the folder with "
            "tools/debian-root, or omit --machine-root: such wheels are then not imported.",
        )
    return command, version
