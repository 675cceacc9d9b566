"""Runs Python of another machine: qemu's user emulation, with the root of a small system of that machine.

`tools/debian-root` makes such a root. Nothing has to be installed in it but Python: qemu looks there for the
libraries of the system, and takes all else from this machine's files.
"""

from __future__ import annotations

import shutil

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.util.errors import ToolchainError
from builder.util.process import output_of


def find_emulator(target: Target, options: BuildOptions) -> tuple[tuple[str, ...], str] | None:
    """Return the command that runs Python of a target's machine, and its version; None without a root."""
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
    command = (qemu, "-L", str(root), str(root / "usr" / "bin" / "python3"))
    code = "import platform, sys; print(platform.machine(), '%d.%d' % sys.version_info[:2])"
    name, _, version = (output_of([*command, "-I", "-c", code]) or "").partition(" ")
    if name != machine.name:
        raise ToolchainError(
            f"--machine-root is {root}, and there is no usr/bin/python3 in it that runs on {machine.name}.",
            "Make such a folder with tools/debian-root, or omit --machine-root.",
        )
    return command, version
