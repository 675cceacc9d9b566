"""Finds the host compiler: a g++ that the CUDA compiler accepts.

nvcc refuses a g++ that is newer than it knows, by its major version (CUDA Installation Guide for Linux,
"Host Compiler Support Policy"; the same figure stands in nvcc's own `crt/host_config.h`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.target.machines import Machine, this_machine
from builder.util import files, process
from builder.util.digest import file_sha256
from builder.util.errors import HostCompilerError
from builder.util.log import say

# From which CUDA version on which major version of g++ is the newest that nvcc accepts.
_NEWEST_GCC = ((13, 0, 15), (12, 8, 14), (12, 4, 13), (12, 0, 12), (11, 0, 11))
# torch's headers are C++17 as g++ 9 has it (PyTorch's README asks for 9.4).
_OLDEST_GCC = 9


@dataclass(frozen=True)
class HostCompiler:
    """A g++.

    Attributes:
        path: The program.
        version: `12.2.0`.
    """

    path: Path
    version: str

    @property
    def major(self) -> int:
        """`12` of `12.2.0`."""
        return int(self.version.partition(".")[0])


@dataclass(frozen=True)
class GccRange:
    """The major versions of g++ that a CUDA compiler accepts, both included."""

    oldest: int
    newest: int

    def __contains__(self, major: object) -> bool:
        return isinstance(major, int) and self.oldest <= major <= self.newest


def supported_gcc(nvcc_version: str) -> GccRange:
    """Return which g++ an nvcc accepts; for an nvcc newer than this table, what the newest in it accepts.

    Args:
        nvcc_version: `13.0.88`, or `13.0`.

    Raises:
        HostCompilerError: This nvcc is older than the table.
    """
    major, minor = (int(part) for part in nvcc_version.split(".")[:2])
    for cuda_major, cuda_minor, newest in _NEWEST_GCC:
        if (major, minor) >= (cuda_major, cuda_minor):
            return GccRange(_OLDEST_GCC, newest)
    raise HostCompilerError(f"CUDA {major}.{minor} is too old to build with.", "Use CUDA 12 or newer.")


def find_host_compiler(
    nvcc_version: str, environ: Mapping[str, str] | None = None, machine: Machine | None = None
) -> HostCompiler:
    """Find a g++ that an nvcc accepts, for a machine.

    `CXX` is used or refused, never ignored. Without it, `g++` on `PATH` is used, or if that one doesn't
    fit, the newest `g++-N` on `PATH` or of a gcc-toolset that does. For another machine it is the cross
    compiler, `aarch64-linux-gnu-g++`.

    Args:
        nvcc_version: `13.0.88`, or `13.0`.
        environ: The environment to look in; None is this process's.
        machine: What it compiles for; None is this machine.

    Raises:
        HostCompilerError: None fits; names the package to install with apt and dnf.
    """
    environ = os.environ if environ is None else environ
    path = environ.get("PATH", os.defpath)
    wanted = supported_gcc(nvcc_version)
    machine = machine or this_machine()
    chosen = environ.get("CXX", "").strip()
    if chosen:
        return _from_cxx(chosen, path, nvcc_version, wanted, machine)
    default = shutil.which(machine.gxx, path=path)
    compiler = inspect(Path(default)) if default else None
    if compiler and compiler.major in wanted:
        return compiler
    for candidate in _versioned(path, wanted, machine):
        other = inspect(candidate)
        if other and other.major in wanted:
            why = f"not {compiler.path} ({compiler.version})" if compiler else f"there is no {machine.gxx}"
            say(f"  host compiler: {other.path} ({other.version}), {why}, for CUDA {_short(nvcc_version)}")
            return other
    if compiler is None:
        raise HostCompilerError(
            f"No {machine.gxx} was found, and nvcc needs one."
            if default is None
            else f"{default} is not a g++ that works, and nvcc needs one.",
            f"Install it: {machine.how_to_install_gxx}.",
        )
    raise _misfit(compiler, nvcc_version, wanted, machine, "")


def inspect(path: Path) -> HostCompiler | None:
    """Return a compiler with its version; None if it is not a g++, or does not run."""
    about = process.answer([path, "--version"])
    # Before g++ 7 there is only -dumpversion; a newer one answers the first of the two.
    version = process.answer([path, "-dumpfullversion", "-dumpversion"]) or ""
    if about is None or "clang" in about.lower() or re.fullmatch(r"\d+(\.\d+)*", version) is None:
        return None
    return HostCompiler(path, version)


def host_sha256(compiler: HostCompiler) -> str:
    """Return a digest of a g++'s version, driver and compiler; its path does not count."""
    digests = [compiler.version, file_sha256(compiler.path.resolve())]
    inner = Path(process.answer([compiler.path, "-print-prog-name=cc1plus"]) or "")
    if inner.is_absolute() and inner.is_file():
        digests.append(file_sha256(inner))
    return "-".join(digests)


def c_compiler(compiler: HostCompiler) -> Path:
    """Return the gcc of the same version beside a g++; the g++ itself, which compiles C too, without one."""
    for old, new in (("g++", "gcc"), ("c++", "cc")):
        if old in compiler.path.name:
            beside = compiler.path.with_name(compiler.path.name.replace(old, new))
            same = inspect(beside) if beside.exists() else None
            if same and same.version == compiler.version:
                return beside
    return compiler.path


def host_folder(compiler: HostCompiler, cache_dir: Path) -> Path:
    """Return a folder in which `gcc`, `g++`, `cc` and `c++` are a host compiler; make it if needed.

    nvcc runs whatever `gcc` is on `PATH`, which need not be of the version of the g++ that was checked;
    its NVCC_CCBIN is not known before CUDA 12.5, and `-ccbin` is the source's to pass.

    Args:
        compiler: The g++.
        cache_dir: The cache's root; the folder is in `host/`.

    Raises:
        OSError: The cache can't be written.
    """
    gcc = c_compiler(compiler)
    programs = {"gcc": gcc, "g++": compiler.path, "cc": gcc, "c++": compiler.path}
    scripts = {name: f'#!/bin/sh\nexec {shlex.quote(str(path))} "$@"\n' for name, path in programs.items()}
    key = hashlib.sha256("".join(f"{name}\n{text}" for name, text in scripts.items()).encode()).hexdigest()
    folder = cache_dir / "host" / key[:16]
    for name, text in scripts.items():
        script = folder / name
        if not (script.is_file() and script.read_text() == text and os.access(script, os.X_OK)):
            files.write(script, text, executable=True)
    return folder


def _from_cxx(chosen: str, path: str, nvcc_version: str, wanted: GccRange, machine: Machine) -> HostCompiler:
    remedy = "Set it to the name or path of a g++, without arguments, or unset it."
    found = shutil.which(chosen, path=path)
    if found is None:
        raise HostCompilerError(f"CXX is {chosen!r}, and there is no such program.", remedy)
    compiler = inspect(Path(found))
    if compiler is None:
        raise HostCompilerError(f"CXX is {chosen!r}, which is not a g++ that works.", remedy)
    makes = process.answer([compiler.path, "-dumpmachine"]) or machine.name
    if makes.partition("-")[0] != machine.name:
        raise HostCompilerError(
            f"CXX is {chosen!r}, which compiles for {makes}, and the wheel is for {machine.name}.",
            f"Unset it, or set it to a g++ for {machine.name}: {machine.how_to_install_gxx}.",
        )
    if compiler.major not in wanted:
        raise _misfit(compiler, nvcc_version, wanted, machine, " Or unset CXX, or set it to one that fits.")
    return compiler


def _misfit(
    compiler: HostCompiler, nvcc_version: str, wanted: GccRange, machine: Machine, more: str
) -> HostCompilerError:
    what = "newer" if compiler.major > wanted.newest else "older"
    limit = wanted.newest if what == "newer" else wanted.oldest
    return HostCompilerError(
        f"{compiler.path} is g++ {compiler.version}, {what} than CUDA {_short(nvcc_version)} accepts "
        f"(g++ {wanted.oldest} to {wanted.newest}).",
        f"Install g++ {limit} beside it: `apt install {machine.apt_gxx(limit)}` (Debian, Ubuntu) or "
        f"`dnf install gcc-toolset-{limit}-gcc-c++` (RHEL and relatives). It is then found.{more}",
    )


def _versioned(path: str, wanted: GccRange, machine: Machine) -> Iterator[Path]:
    for major in range(wanted.newest, wanted.oldest - 1, -1):
        found = shutil.which(f"{machine.gxx}-{major}", path=path)
        if found:
            yield Path(found)
        toolset = Path("/opt/rh", f"gcc-toolset-{major}", "root", "usr", "bin", "g++")
        if machine.is_here and toolset.exists():
            yield toolset


def _short(nvcc_version: str) -> str:
    return ".".join(nvcc_version.split(".")[:2])
