"""Tries a CUDA compiler: asks for its version, and has it compile a small kernel."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.toolchain.compilers import SYSTEM_PATH, Toolchain, build_environment
from builder.util import process
from builder.util.errors import HostCompilerError, ToolchainError
from builder.util.limits import COMMAND_SECONDS, TRIAL_SECONDS

_KERNEL = """\
#include <cuda_fp16.h>
__global__ void trial(__half* x) { x[threadIdx.x] = __float2half(1.0f); }
void run(__half* x) { trial<<<1, 32>>>(x); }
"""


def nvcc_version(nvcc: Path, *, timeout_seconds: float = COMMAND_SECONDS) -> str:
    """Return an nvcc's version, such as `13.0.88`.

    Raises:
        ToolchainError: It does not run, hangs, or prints nothing that looks like a version.
    """
    env = {"PATH": os.pathsep.join(SYSTEM_PATH)}
    text = _run([nvcc, "--version"], env, timeout_seconds).output
    match = re.search(r"^Cuda compilation tools, release (\d+\.\d+), V(\d+\.\d+\.\d+)$", text, re.MULTILINE)
    if match is None:
        raise ToolchainError(f"{nvcc} does not print its version: {text.strip()[-200:]!r}.")
    return match[2]


def try_out(toolchain: Toolchain, gencode: str, *, timeout_seconds: float = TRIAL_SECONDS) -> None:
    """Compile a small kernel with a toolchain, and with nothing else on `PATH`.

    Args:
        toolchain: What to try.
        gencode: The architecture, as nvcc's `-gencode` takes it.
        timeout_seconds: How long it may take.

    Raises:
        ToolchainError: It failed, or hangs.
        HostCompilerError: It failed because of g++.
    """
    with tempfile.TemporaryDirectory(prefix="cuda-trial-") as folder:
        source = Path(folder) / "trial.cu"
        source.write_text(_KERNEL)
        env = {**build_environment(toolchain, {}), "TMPDIR": folder, "HOME": folder}
        command: list[str | Path] = [
            toolchain.nvcc,
            "-c",
            "-gencode",
            gencode,
            "-o",
            f"{folder}/trial.o",
            source,
        ]
        done = _run(command, env, timeout_seconds)
    if done.status == 0:
        return
    end = (done.errors + done.output).strip()[-1500:]
    if "unsupported GNU version" in end or "cc1plus" in end:
        raise HostCompilerError(
            f"nvcc {toolchain.nvcc_version} does not compile with g++ {toolchain.host.version}:\n{end}",
            "Install a whole g++ of a version that nvcc accepts: `apt install g++` (Debian, Ubuntu) or "
            "`dnf install gcc-c++` (Fedora, RHEL); or name one with CXX.",
        )
    raise ToolchainError(
        f"The CUDA compiler {toolchain.nvcc} does not compile a small kernel:\n{end}",
        "Give a different one with --cuda-home DIR."
        if toolchain.origin == "cuda-home"
        else "Remove the folder `toolchains` of the cache and build again.",
    )


def _run(command: Sequence[str | Path], env: Mapping[str, str], timeout_seconds: float) -> process.Finished:
    try:
        return process.run(command, env=env, timeout_seconds=timeout_seconds, check=False)
    except process.CommandError as error:
        raise ToolchainError(f"{command[0]}: {error.message}", "Check that it is for this machine.") from None
