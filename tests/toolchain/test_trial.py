"""A CUDA compiler is asked for its version, and compiles a small kernel; the compilers are scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_tools import gxx, nvcc, program

from builder.toolchain.compilers import Toolchain
from builder.toolchain.host_compiler import HostCompiler
from builder.toolchain.trial import nvcc_version, try_out
from builder.util.errors import HostCompilerError, ToolchainError


def test_an_nvcc_prints_its_version(tmp_path: Path) -> None:
    assert nvcc_version(program(tmp_path / "nvcc", nvcc("12.8.93"))) == "12.8.93"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "#!/bin/sh\necho 'Cuda compilation tools'\n",
            "does not print its version: 'Cuda compilation tools'",
        ),
        ("#!/no/such/interpreter\n", "can't be run: No such file or directory"),
    ],
)
def test_an_nvcc_without_a_version_is_refused(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(ToolchainError, match=message):
        nvcc_version(program(tmp_path / "nvcc", script))


def test_a_compiler_that_hangs_is_refused(tmp_path: Path) -> None:
    toolchain = _toolchain(tmp_path, "")
    program(toolchain.nvcc, "#!/bin/sh\nsleep 5\n")
    with pytest.raises(ToolchainError, match=r"nvcc did not end within 0\.2 s"):
        nvcc_version(toolchain.nvcc, timeout_seconds=0.2)
    with pytest.raises(ToolchainError, match=r"nvcc did not end within 0\.2 s"):
        try_out(toolchain, "arch=compute_80,code=sm_80", timeout_seconds=0.2)


def _toolchain(folder: Path, error: str, origin: str = "packages") -> Toolchain:
    program(folder / "cuda" / "bin" / "nvcc", nvcc("13.0.88", error))
    host = HostCompiler(gxx(folder / "g++", "12.2.0"), "12.2.0")
    return Toolchain(folder / "cuda", "13.0.88", origin, (), host, folder, "")


def test_a_compiler_that_compiles_passes(tmp_path: Path) -> None:
    try_out(_toolchain(tmp_path, ""), "arch=compute_80,code=sm_80")


@pytest.mark.parametrize(
    ("error", "origin", "kind", "remedy"),
    [
        ("ptxas fatal: no", "packages", ToolchainError, "Remove the folder `toolchains`"),
        ("ptxas fatal: no", "cuda-home", ToolchainError, "--cuda-home"),
        ("#error -- unsupported GNU version!", "packages", HostCompilerError, "apt install g++"),
        ("gcc: cannot execute cc1plus", "packages", HostCompilerError, "apt install g++"),
    ],
)
def test_a_compiler_that_fails_says_why(
    tmp_path: Path, error: str, origin: str, kind: type[ToolchainError], remedy: str
) -> None:
    with pytest.raises(ToolchainError) as caught:
        try_out(_toolchain(tmp_path, error, origin), "arch=compute_80,code=sm_80")
    assert type(caught.value) is kind
    assert error in caught.value.message
    assert remedy in caught.value.remedy
