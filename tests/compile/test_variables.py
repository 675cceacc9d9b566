"""What the source's build backend is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_up_tools

from builder.compile.variables import Work, build_variables
from builder.target.architectures import Architecture
from builder.target.selection import Selection

TARGET = made_up_tools.target()
SELECTION = Selection((Architecture(8, 9), Architecture(9, 0, "a")), "all", complete=True)
WORK = Work("/cache/launcher --quiet", Path("/scratch/costs.json"), Path("/scratch/events.jsonl"))


def test_the_patched_source_is_told_everything() -> None:
    assert build_variables(TARGET, SELECTION, epoch=1761613216, hash_seed=3, jobs=4, work=WORK) == {
        "SOURCE_DATE_EPOCH": "1761613216",
        "PYTHONHASHSEED": "3",
        "TORCH_CUDA_ARCH_LIST": "8.9;9.0a",
        "SAGEATTENTION_LOCAL_VERSION": "cu130.torch2.11",
        "SAGEATTENTION_TORCH_REQUIREMENT": "torch==2.11.*",
        "SAGEATTENTION_ABI": "native",
        "SAGEATTENTION_JOBS": "4",
        "SAGEATTENTION_LAUNCHER": "/cache/launcher --quiet",
        "SAGEATTENTION_COSTS": "/scratch/costs.json",
        "SAGEATTENTION_EVENTS": "/scratch/events.jsonl",
    }


def test_a_stable_wheel_for_some_architectures_says_so() -> None:
    target = replace(TARGET, abi="stable", torch_minimum="2.10")
    some = replace(SELECTION, complete=False)
    told = build_variables(target, some, epoch=1, hash_seed=0, jobs=1, work=WORK)
    assert told["SAGEATTENTION_LOCAL_VERSION"] == "cu130.universal.sm89.sm90a"
    assert told["SAGEATTENTION_TORCH_REQUIREMENT"] == "torch>=2.10"
    assert told["SAGEATTENTION_ABI"] == "stable"


def test_upstreams_own_build_is_told_only_what_it_knows() -> None:
    assert build_variables(TARGET, SELECTION, epoch=1, hash_seed=0, jobs=4, work=None) == {
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONHASHSEED": "0",
        "TORCH_CUDA_ARCH_LIST": "8.9;9.0a",
        "MAX_JOBS": "4",
        "EXT_PARALLEL": "1",
        "NVCC_APPEND_FLAGS": "--threads=1",
    }
