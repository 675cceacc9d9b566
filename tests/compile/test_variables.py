"""What the source's build backend is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_up_tools

from builder.compile.variables import patched_variables, upstream_variables
from builder.target.architectures import Architecture
from builder.target.selection import Selection
from builder.target.targets import Target

TARGET = made_up_tools.target()
SELECTION = Selection((Architecture(8, 9), Architecture(9, 0, "a")), "all", complete=True)


def told(target: Target, selection: Selection) -> dict[str, str]:
    launcher = ["/a cache/launcher", "--quiet"]
    return patched_variables(
        target,
        selection,
        4,
        torch=Path("/site/torch"),
        launcher=launcher,
        costs=Path("/build/costs.json"),
        events=Path("/build/events"),
    )


def test_the_patched_source_is_told_everything() -> None:
    assert told(TARGET, SELECTION) == {
        "TORCH_CUDA_ARCH_LIST": "8.9;9.0a",
        "SAGEATTENTION_LOCAL_VERSION": "cu130.torch2.11",
        "SAGEATTENTION_TORCH_REQUIREMENT": "torch==2.11.*",
        "SAGEATTENTION_ABI": "native",
        "SAGEATTENTION_TORCH": "/site/torch",
        "_PYTHON_HOST_PLATFORM": "linux-x86_64",
        "SAGEATTENTION_JOBS": "4",
        "SAGEATTENTION_LAUNCHER": "'/a cache/launcher' --quiet",
        "SAGEATTENTION_COSTS": "/build/costs.json",
        "SAGEATTENTION_EVENTS": "/build/events",
    }


def test_a_stable_wheel_for_some_architectures_says_so() -> None:
    target = replace(TARGET, abi="stable", torch_minimum="2.10")
    variables = told(target, replace(SELECTION, complete=False))
    assert variables["SAGEATTENTION_LOCAL_VERSION"] == "cu130.universal.sm89.sm90a"
    assert variables["SAGEATTENTION_TORCH_REQUIREMENT"] == "torch>=2.10"
    assert variables["SAGEATTENTION_ABI"] == "stable"


def test_upstreams_own_build_is_told_only_what_it_knows() -> None:
    assert upstream_variables(SELECTION, 4) == {
        "TORCH_CUDA_ARCH_LIST": "8.9;9.0a",
        "MAX_JOBS": "4",
        "EXT_PARALLEL": "1",
        "NVCC_APPEND_FLAGS": "--threads=1",
    }
