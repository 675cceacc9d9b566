"""The rows go green for a right package, and red for each way in which one can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.kernels import kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import FIRST_CALL, Options, RowSpec, plan
from builder.smoketest.report import Result, Status
from builder.smoketest.rows.accuracy import compare_case
from builder.smoketest.rows.runtime.streams import eager

Run = Callable[[RowSpec], Result]
KERNELS = {kernel.key: kernel for kernel in kernels_for((9, 0))}
FP16 = "cuda-fp16/fp32/per_thread"
SPECS = {spec.id: spec for spec in plan(Options(), (9, 0))}
MEDIUM = Case((333, 777), head_dim=64, groups=4, return_lse=True, k_mean=True)
PACKED = VarlenCase(((17, 17), (65, 65)), causal=True)

# What a CPU can compute: of the slow groups a few rows, of the others those of these kernels.
GREEN = [
    spec.id
    for spec in SPECS.values()
    if (spec.kernel.key in ("sageattn", FP16, "varlen") and spec.group in ("arguments", "range", "shapes"))
    or (
        (spec.group == "accuracy" and spec.kernel.key in ("cuda-fp8/fp32/per_warp", "varlen"))
        and "2048" not in spec.case
        and "4096" not in spec.case
    )
    or (spec.group == "gradient" and not spec.needs_gpu and "compiled" not in spec.case)
]


@pytest.mark.parametrize("row", GREEN)
def test_a_right_package_passes(run: Run, row: str) -> None:
    assert run(SPECS[row]).reason == ""


RED: dict[str, list[tuple[str, Case | VarlenCase, str]]] = {
    "tail": [(FP16, MEDIUM, "are NaN or infinite"), ("varlen", PACKED, "are NaN or infinite")],
    "unwritten": [(FP16, MEDIUM, "are NaN or infinite")],
    "groups": [(FP16, MEDIUM, "cosine")],
    "one-head": [(FP16, MEDIUM, "cosine")],
    "one-row": [(FP16, MEDIUM, "worst row's relative error")],
    "scale": [(FP16, Case((333, 777)), "relative error")],
    "causal": [(FP16, Case((333, 333), causal=True), "cosine")],
    "no-smoothing": [(FP16, MEDIUM, "relative error")],
    "lse-base2": [(FP16, MEDIUM, "logsumexp")],
    "lse-without-mean": [(FP16, MEDIUM, "logsumexp")],
    "writes-input": [(FP16, MEDIUM, "the caller's tensors were changed")],
}


@pytest.mark.parametrize("fault", RED)
def test_a_faulty_kernel_fails_an_accuracy_row(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    for key, case, reason in RED[fault]:
        assert reason in compare_case(subject, KERNELS[key], case, seed=1).reason


def test_fp8s_error_is_too_much_for_an_fp16_kernel(subject: Subject) -> None:
    kernel = KERNELS["cuda-fp8/fp32/per_thread"]
    assert compare_case(subject, kernel, MEDIUM, seed=1).status is Status.PASS
    assert compare_case(subject, replace(kernel, family="fp16"), MEDIUM, seed=1).status is Status.FAIL


FAULTS = [
    ("swallows", f"arguments/{FP16}/attn_mask of bool", "relative error"),
    ("swallows", f"arguments/{FP16}/attn_mask of floats, for all heads", "relative error"),
    ("swallows", f"arguments/{FP16}/attn_mask of padded keys", "relative error"),
    ("swallows", f"arguments/{FP16}/keywords that can't be honoured are refused", "is_casual=True: accepted"),
    ("swallows", f"arguments/{FP16}/scale and sm_scale", "scale=0.05: cosine"),
    ("swallows", f"arguments/{FP16}/smooth_k=False", "no more error without it"),
    ("takes-anything", f"arguments/{FP16}/attn_mask that masks nothing, or can't be honoured", "int64"),
    ("takes-anything", f"shapes/{FP16}/shapes that disagree are refused", "head_dim 129: accepted"),
    ("takes-anything", f"shapes/{FP16}/other types, devices and layouts are refused", "float32: accepted"),
    ("takes-anything", f"shapes/{FP16}/no keys are refused", "not ValueError"),
    (
        "takes-anything",
        "shapes/varlen/shapes that disagree are refused",
        "V shorter than K: raised RuntimeError",
    ),
    ("takes-anything", "shapes/varlen/cu_seqlens are checked", "max_seqlen_q too small: accepted"),
    ("large-v", f"range/{FP16}/V of 6e4 x normal, bf16", "are NaN or infinite"),
    ("causal", f"range/{FP16}/QK^T far below zero", "causal: cosine"),
    ("one-row", f"range/{FP16}/V of 1e-8 x normal, bf16", "relative error"),
    ("silent-gradient", f"gradient/{FP16}/backward() raises", "does not require grad"),
    ("silent-gradient", "gradient/varlen/as torch's", "does not require grad"),
    ("refuses", "gradient/sageattn/as torch's", "has no backward"),
]


@pytest.mark.parametrize(("fault", "row", "reason"), FAULTS)
def test_a_faulty_package_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str, row: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    assert reason in run(SPECS[row]).reason


def test_two_equal_wrong_results_prove_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((65, 65), head_dim=64)
    assert eager(subject, KERNELS[FP16], 1, case)[2] == []
    monkeypatch.setenv("FAKE_FAULT", "unwritten")
    assert "already wrong on the default stream" in eager(subject, KERNELS[FP16], 1, case)[2][0]


def test_a_wrong_compiled_result_is_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[f"runtime/{FP16}/torch.compile"]
    assert run(spec).reason == ""
    monkeypatch.setenv("FAKE_FAULT", "scale")
    reason = run(spec).reason
    assert "1024x1024 d128 fp16 HND: relative error" in reason
    assert "640x640 d128 fp16 HND: relative error" in reason


def test_code_that_the_wheel_lacks_is_an_error_only_for_sageattn(subject: Subject, run: Run) -> None:
    def lacking(*tensors: object, **arguments: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    rows = {key: RowSpec(FIRST_CALL, KERNELS[key], FIRST_CALL, "speed.first_call") for key in KERNELS}
    assert run(rows["varlen"]).figures["first_call_s"] > 0
    for key in ("sageattn", "sm90-fp8/fp32+fp32/per_warp"):
        setattr(subject.module, KERNELS[key].function, lacking)
    result = run(rows["sm90-fp8/fp32+fp32/per_warp"])
    assert result.status is Status.NOT_APPLICABLE
    assert result.reason.startswith("the wheel lacks the kernel: RuntimeError: CUDA error: no kernel image")
    with pytest.raises(RuntimeError, match="no kernel image"):
        run(rows["sageattn"])
