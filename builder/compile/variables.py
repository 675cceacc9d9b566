"""The environment variables that tell the source's build backend what to build, and how."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from builder.target.architectures import join
from builder.target.selection import Selection
from builder.target.targets import Target, local_version


def upstream_variables(selection: Selection, jobs: int) -> dict[str, str]:
    """Return the variables for upstream's own build.

    Args:
        selection: The architectures.
        jobs: Compiler processes at once.
    """
    return {
        "TORCH_CUDA_ARCH_LIST": join(selection.architectures, ";"),
        "MAX_JOBS": str(jobs),
        "EXT_PARALLEL": "1",
        # Upstream asks for --threads=8, which multiplies the processes that MAX_JOBS counts.
        "NVCC_APPEND_FLAGS": "--threads=1",
    }


def patched_variables(
    target: Target,
    selection: Selection,
    jobs: int,
    *,
    torch: Path,
    launcher: Sequence[str],
    costs: Path,
    events: Path,
) -> dict[str, str]:
    """Return the variables for the patched source's build.

    Args:
        target: What to build.
        selection: The architectures.
        jobs: Compiler processes at once.
        torch: The folder of torch, with its headers and libraries.
        launcher: Command to put before each compiler; empty for none.
        costs: File with the costs of earlier builds.
        events: File that progress goes to.
    """
    return {
        "TORCH_CUDA_ARCH_LIST": join(selection.architectures, ";"),
        "SAGEATTENTION_LOCAL_VERSION": local_version(target, selection),
        "SAGEATTENTION_TORCH_REQUIREMENT": target.torch_requirement,
        "SAGEATTENTION_ABI": target.abi,
        "SAGEATTENTION_TORCH": str(torch),
        # The wheel's tag is for this platform: that is how a Python is told that it builds for another one.
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine.name}",
        "SAGEATTENTION_JOBS": str(jobs),
        "SAGEATTENTION_LAUNCHER": shlex.join(launcher),
        "SAGEATTENTION_COSTS": str(costs),
        "SAGEATTENTION_EVENTS": str(events),
    }
