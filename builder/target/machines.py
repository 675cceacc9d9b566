"""The machines that wheels are for, as `uname -m` and platform tags name them."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A machine, by its own name and by pyelftools' name for it."""

    name: str
    elf: str

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.name == platform.machine()

    @property
    def gxx(self) -> str:
        """The g++ for it: this machine's own, or the cross compiler as Debian and Fedora call it."""
        return "g++" if self.is_here else f"{self.name}-linux-gnu-g++"

    def apt_gxx(self, major: int | None = None) -> str:
        """Return Debian's package of that g++, of one major version or of the default one."""
        versioned = f"g++-{major}" if major else "g++"
        return versioned if self.is_here else f"{versioned}-{self.name.replace('_', '-')}-linux-gnu"

    @property
    def how_to_install_gxx(self) -> str:
        """The commands that install that g++."""
        dnf = "gcc-c++" if self.is_here else f"gcc-c++-{self.name}-linux-gnu"
        return f"`apt install {self.apt_gxx()}` (Debian, Ubuntu) or `dnf install {dnf}` (Fedora, RHEL)"


X86_64 = Machine("x86_64", "x64")
AARCH64 = Machine("aarch64", "AArch64")
MACHINES = (X86_64, AARCH64)


def this_machine() -> Machine:
    """Return this machine; x86_64 where it isn't one of these."""
    return machine_of(f"_{platform.machine()}") or X86_64


def machine_of(tag: str) -> Machine | None:
    """Return the machine of a platform tag, such as `linux_aarch64`; None where it isn't one of these."""
    return next((machine for machine in MACHINES if tag.endswith(f"_{machine.name}")), None)
