"""The environment variables that tell the source's build backend what to build, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.target.selection import Selection
from builder.target.targets import Target, local_version


@dataclass(frozen=True)
class Work:
    """How the patched source does its work.

    Attributes:
        launcher: Command to put before each compiler; empty for none.
        costs: File with the costs of earlier builds.
        events: File that progress goes to.
    """

    launcher: str
    costs: Path
    events: Path


def build_variables(
    target: Target, selection: Selection, *, epoch: int, hash_seed: int, jobs: int, work: Work | None
) -> dict[str, str]:
    """Return the variables of one build.

    Args:
        target: What to build.
        selection: For which architectures.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        hash_seed: Python's hash seed.
        jobs: Compiler processes at once.
        work: How the patched source works; None for upstream's own, which knows none of this.
    """
    common = {
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONHASHSEED": str(hash_seed),
        "TORCH_CUDA_ARCH_LIST": ";".join(map(str, selection.architectures)),
    }
    if work is None:
        # Upstream asks for --threads=8, which multiplies the processes that MAX_JOBS counts.
        return {**common, "MAX_JOBS": str(jobs), "EXT_PARALLEL": "1", "NVCC_APPEND_FLAGS": "--threads=1"}
    return {
        **common,
        "SAGEATTENTION_LOCAL_VERSION": local_version(target, selection),
        "SAGEATTENTION_TORCH_REQUIREMENT": target.torch_requirement,
        "SAGEATTENTION_ABI": target.abi,
        "SAGEATTENTION_JOBS": str(jobs),
        "SAGEATTENTION_LAUNCHER": work.launcher,
        "SAGEATTENTION_COSTS": str(work.costs),
        "SAGEATTENTION_EVENTS": str(work.events),
    }
