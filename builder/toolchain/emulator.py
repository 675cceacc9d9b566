"""Runs programs of another machine: qemu's user emulation, with the root of a small system of that machine.

`tools/debian-root` makes such a root. Nothing has to be installed in it but Python: qemu looks there for the
libraries of the system, and takes all else from this machine's files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.util import process
from builder.util.errors import ToolchainError


@dataclass(frozen=True)
class Emulator:
    """A Python of another machine.

    Attributes:
        command: What runs it.
        python: The interpreter.
        version: Its minor version: `3.11`.
    """

    command: tuple[str, ...]
    python: Path
    version: str


def find_emulator(target: Target, options: BuildOptions) -> Emulator | None:
    """Return what runs Python of a target's machine; None where `--machine-root` is not given.

    Raises:
        ToolchainError: It can't be run, or the target is for this machine.
    """
    root, machine = options.machine_root, target.machine
    if root is None:
        return None
    if machine.is_here:
        raise ToolchainError(
            f"--machine-root is {root}, and {target.name} is for this machine.", "Omit --machine-root."
        )
    names = (f"qemu-{machine.name}-static", f"qemu-{machine.name}")
    qemu = next(filter(None, map(shutil.which, names)), None)
    if qemu is None:
        raise ToolchainError(
            f"There is no {names[0]}, which --machine-root needs.",
            "Install it: `apt install qemu-user-static` (Debian, Ubuntu) or `dnf install qemu-user-static` "
            "(Fedora). Or omit --machine-root: the wheels are then not imported.",
        )
    command, python = (qemu, "-L", str(root)), root / "usr" / "bin" / "python3"
    says = "import platform, sys; print(platform.machine(), '%d.%d' % sys.version_info[:2])"
    there, _, version = (process.answer([*command, python, "-I", "-c", says]) or "").partition(" ")
    if there != machine.name:
        raise ToolchainError(
            f"--machine-root is {root}, and there is no usr/bin/python3 in it that runs on {machine.name}.",
            "Make such a folder with tools/debian-root, or omit --machine-root.",
        )
    return Emulator(command, python, version)
