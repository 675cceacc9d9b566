"""Finds a g++ that the CUDA compiler accepts.

nvcc refuses a g++ that is newer than it knows, by its major version (CUDA Installation Guide for Linux,
"Host Compiler Support Policy").
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.target.architectures import major_minor
from builder.target.targets import Machine, this_machine
from builder.util.errors import HostCompilerError
from builder.util.files import file_sha256
from builder.util.log import say
from builder.util.process import output_of

# From which CUDA version on which major version of g++ is the newest that nvcc accepts.
_NEWEST = (((13, 0), 15), ((12, 8), 14), ((12, 4), 13), ((12, 0), 12))
# torch's headers are C++17 as g++ 9 has it (PyTorch's README asks for 9.4).
OLDEST = 9


@dataclass(frozen=True)
class Gxx:
    """A g++: the program, and its version such as `12.2.0`."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        """`12` of `12.2.0`."""
        return int(self.version.partition(".")[0])

    def digest(self) -> str:
        """Return the version and the digests of the driver and the compiler; the path does not count."""
        inner = Path(output_of([self.path, "-print-prog-name=cc1plus"]) or "")
        programs = [program for program in (self.path.resolve(), inner) if program.is_file()]
        return "-".join([self.version, *map(file_sha256, programs)])


def how_to_install(machine: Machine, major: int | None = None) -> str:
    """Return the commands that install a machine's g++: of one major version, or the default one."""
    apt = f"g++-{major}" if major else "g++"
    dnf = f"gcc-toolset-{major}-gcc-c++" if major else "gcc-c++"
    if not machine.is_here:
        apt += f"-{machine.name.replace('_', '-')}-linux-gnu"
        dnf = f"gcc-c++-{machine.name}-linux-gnu"
    return f"`apt install {apt}` (Debian, Ubuntu) or `dnf install {dnf}` (Fedora, RHEL)"


def newest_accepted(nvcc_version: str) -> int:
    """Return the newest major version of g++ that an nvcc accepts, as far as the table knows."""
    return next(newest for cuda, newest in _NEWEST if major_minor(nvcc_version) >= cuda)


def find_gxx(nvcc_version: str, environ: Mapping[str, str], machine: Machine | None = None) -> Gxx:
    """Find a g++ that an nvcc accepts, for a machine (this one by default).

    `CXX` is used or refused, never ignored. Without it, `g++` on `PATH` is used (another machine's cross
    compiler), or if that one doesn't fit, the newest `g++-N` on `PATH` or of a gcc-toolset that does.
    """
    machine = machine or this_machine()
    path, name = environ.get("PATH", os.defpath), environ.get("CXX", "").strip()
    default = "g++" if machine.is_here else f"{machine.name}-linux-gnu-g++"  # as Debian and Fedora call it
    cuda, newest = ".".join(nvcc_version.split(".")[:2]), newest_accepted(nvcc_version)
    candidates = [name or default]
    for major in () if name else range(newest, OLDEST - 1, -1):
        candidates.append(f"{default}-{major}")
        if machine.is_here:
            candidates.append(str(Path("/opt/rh", f"gcc-toolset-{major}", "root", "usr", "bin", "g++")))
    programs = (shutil.which(candidate, path=path) for candidate in candidates)
    installed = [gxx for program in programs if program and (gxx := inspect(Path(program)))]
    if not installed and name:
        remedy = "Set it to the name or path of a g++, without arguments, or unset it."
        raise HostCompilerError(f"CXX is {name!r}, which is missing or not a g++ that works.", remedy)
    if not installed:
        raise HostCompilerError(
            f"No {default} was found that works.", f"Install it: {how_to_install(machine)}."
        )
    first = installed[0]
    makes = output_of([first.path, "-dumpmachine"]) or machine.name
    if name and makes.partition("-")[0] != machine.name:
        message = f"CXX is {name!r}, which compiles for {makes}, and the wheel is for {machine.name}."
        raise HostCompilerError(message, f"Unset it, and install one: {how_to_install(machine)}.")
    for gxx in installed:
        if OLDEST <= gxx.major <= newest:
            if gxx is not first:
                say(f"  {gxx.path} ({gxx.version}), not {first.path} ({first.version}), for CUDA {cuda}")
            return gxx
    relation, limit = ("older", OLDEST) if first.major < OLDEST else ("newer", newest)
    raise HostCompilerError(
        f"{first.path} is {first.version}, {relation} than CUDA {cuda} accepts (g++ {OLDEST} to {newest}).",
        f"Install g++ {limit} beside it, and set no CXX: {how_to_install(machine, limit)}.",
    )


def inspect(path: Path) -> Gxx | None:
    """Return a g++ with its version; None if it is something else, or does not run."""
    about = output_of([path, "--version"])
    # Before g++ 7 there is only -dumpversion; a newer one answers the first of the two.
    version = output_of([path, "-dumpfullversion", "-dumpversion"]) or ""
    if about is None or "clang" in about.lower() or re.fullmatch(r"\d+(\.\d+)*", version) is None:
        return None
    return Gxx(path, version)
