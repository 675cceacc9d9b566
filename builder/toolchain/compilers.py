"""The compilers of a build, and the environment variables that lead the build to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.toolchain.host_compiler import HostCompiler, c_compiler
from builder.toolchain.materials import Material

SYSTEM_PATH = ("/usr/bin", "/bin")

# What the user's environment may pass on to the build. All else stays out: a NVCC_APPEND_FLAGS, CPATH or
# LIBRARY_PATH that nobody remembers would change the wheel without a trace. So would the user's HOME: in
# ~/.pydistutils.cfg are options of setuptools.
_PASSED_ON = (
    *("USER", "LOGNAME", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR", "TMP", "TEMP"),
    *("CI", "GITHUB_ACTIONS", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
)


@dataclass(frozen=True)
class Toolchain:
    """A CUDA compiler and its host compiler.

    Attributes:
        cuda_home: What `CUDA_HOME` has to be.
        nvcc_version: `13.0.88`.
        origin: `packages`, `packages+archives` or `cuda-home`.
        components: What it consists of.
        host: The g++.
        host_bin: A folder whose `gcc`, `g++`, `cc` and `c++` are the host compiler; nvcc runs `gcc`.
        identity: A digest that changes with anything that can change what a compile makes.
        include_dirs: Folders with headers that torch includes and a user's CUDA toolkit lacks.
    """

    cuda_home: Path
    nvcc_version: str
    origin: str
    components: tuple[Material, ...]
    host: HostCompiler
    host_bin: Path
    identity: str
    include_dirs: tuple[Path, ...] = ()

    @property
    def nvcc(self) -> Path:
        """The compiler driver."""
        return self.cuda_home / "bin" / "nvcc"

    @property
    def cuda_version(self) -> str:
        """`13.0` of nvcc `13.0.88`."""
        return ".".join(self.nvcc_version.split(".")[:2])


def build_environment(toolchain: Toolchain, base_env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that a build with a toolchain runs with.

    `PATH` is the compiler's folder, this Python's and the system's, so that no other nvcc is found. Of the
    user's variables only those pass that can't change what is built.

    Args:
        toolchain: The compilers.
        base_env: The user's environment.
    """
    env = {name: base_env[name] for name in _PASSED_ON if name in base_env}
    folders = [toolchain.host_bin, toolchain.cuda_home / "bin", Path(sys.executable).parent]
    # A compiler outside the system's folders may need the assembler and linker that lie beside it.
    beside = toolchain.host.path.parent
    folders += [beside] if str(beside) not in SYSTEM_PATH else []
    env["PATH"] = os.pathsep.join(dict.fromkeys([*map(str, folders), *SYSTEM_PATH]))
    env["LC_ALL"] = "C.UTF-8"
    env["HOME"] = "/nonexistent"  # unset, it would be looked up
    env["CUDA_HOME"] = str(toolchain.cuda_home)
    env["CXX"] = str(toolchain.host.path)
    env["CC"] = str(c_compiler(toolchain.host))
    env["LIBRARY_PATH"] = str(toolchain.cuda_home / "lib64" / "stubs")
    if toolchain.include_dirs:
        env["CPATH"] = os.pathsep.join(map(str, toolchain.include_dirs))
    return env
