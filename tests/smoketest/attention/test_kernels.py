"""The kernels, and which GPU runs which."""

from __future__ import annotations

import pytest

from builder.smoketest.attention import kernels
from builder.smoketest.attention.kernels import Capability


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        ((8, 0), "fp16"),
        ((8, 6), "fp16"),
        ((8, 9), "fp8"),
        ((9, 0), "fp8"),
        ((12, 0), "fp8"),
        ((12, 1), "fp8"),
    ],
)
def test_sageattns_family_is_that_of_the_kernel_it_chooses(capability: Capability, family: str) -> None:
    assert next(k for k in kernels.kernels_for(capability) if k.key == "sageattn").family == family


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 5), {"sageattn", "triton-fp16", "varlen"}),
        ((8, 6), {"sageattn", "triton-fp16", "varlen", "cuda-fp16"}),
        ((8, 9), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
        ((9, 0), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8", "sm90-fp8"}),
        ((12, 0), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
    ],
)
def test_which_gpu_runs_which_kernels(capability: Capability, runs: set[str]) -> None:
    able = {k.key.split("/")[0] for k in kernels.ALL if not k.why_not(capability)}
    assert able == runs


def test_why_a_gpu_can_not_run_a_kernel_names_both() -> None:
    kernel = next(k for k in kernels.ALL if k.key.startswith("sm90"))
    assert kernel.why_not((8, 9)) == "needs compute capability 9.x, this GPU has 8.9"
    kernel = next(k for k in kernels.ALL if k.key.startswith("cuda-fp8"))
    assert kernel.why_not((8, 6)) == "needs compute capability 8.9, this GPU has 8.6"


def test_every_function_and_accumulator_of_the_package_has_a_kernel() -> None:
    asked = {(k.function, dict(k.arguments).get("pv_accum_dtype")) for k in kernels.ALL}
    assert {
        ("sageattn", None),
        ("sageattn_varlen", None),
        ("sageattn_qk_int8_pv_fp16_triton", None),
        *(("sageattn_qk_int8_pv_fp16_cuda", a) for a in ("fp32", "fp16", "fp16+fp32")),
        *(("sageattn_qk_int8_pv_fp8_cuda", a) for a in ("fp32", "fp32+fp32", "fp32+fp16")),
        ("sageattn_qk_int8_pv_fp8_cuda_sm90", "fp32+fp32"),
    } == asked


def test_patterns_that_name_nothing_are_found() -> None:
    assert kernels.unmatched(("cuda-fp8", "sm91", "sage*")) == ["sm91"]
