"""The accuracy rows go green for a right kernel, and red for each way in which one can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.cases import Case, VarlenCase, covering_set
from builder.smoketest.attention.kernels import ALL, Kernel, kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.report.outcome import Status
from builder.smoketest.rows.accuracy import compare_case

SAGEATTN = kernels_for((9, 0), ("sageattn",))[0]
FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")
VARLEN = next(kernel for kernel in ALL if kernel.varlen)
SMALL = [case for case in covering_set() if max(case.lengths) < 1000][::2]

# One thread: the tensors are small, and a busy machine makes several wait for each other.
torch.set_num_threads(1)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("kernel", [SAGEATTN, FP16], ids=lambda kernel: kernel.family)
def test_a_right_kernel_passes(standin: Subject, kernel: Kernel, case: Case) -> None:
    result = compare_case(standin, kernel, case, seed=1)
    assert result.status is Status.PASS, result.reason


@pytest.mark.parametrize(
    "case",
    [
        VarlenCase(((9, 17), (33, 77)), groups=4, dtype="bf16", k_mean=True),
        VarlenCase(((17, 17), (65, 65)), causal=True),
    ],
    ids=lambda case: case.name,
)
def test_a_right_varlen_kernel_passes(standin: Subject, case: VarlenCase) -> None:
    assert compare_case(standin, VARLEN, case, seed=1).reason == ""


MEDIUM = Case((333, 777), head_dim=64, groups=4, return_lse=True, k_mean=True)

FAULTS = {
    "unwritten": (MEDIUM, "are NaN or infinite"),
    "tail": (MEDIUM, "are NaN or infinite"),
    "groups": (MEDIUM, "cosine"),
    "one-head": (MEDIUM, "cosine"),
    "one-row": (MEDIUM, "worst row's relative error"),
    "scale": (Case((333, 777)), "relative error"),
    "causal": (Case((333, 333), causal=True), "cosine"),
    "no-smoothing": (MEDIUM, "relative error"),
    "lse-base2": (MEDIUM, "logsumexp"),
    "lse-without-mean": (MEDIUM, "logsumexp"),
    "writes-input": (MEDIUM, "the caller's tensors were changed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_kernel_fails(standin: Subject, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    case, reason = FAULTS[fault]
    assert compare_case(standin, FP16, case, seed=1).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", fault)
    result = compare_case(standin, FP16, case, seed=1)
    assert result.status is Status.FAIL
    assert reason in result.reason


def test_a_faulty_varlen_kernel_fails(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    case = VarlenCase(((17, 17), (65, 65)))
    monkeypatch.setenv("STANDIN_FAULT", "tail")
    assert "are NaN" in compare_case(standin, VARLEN, case, seed=1).reason


def test_fp8s_error_is_too_much_for_an_fp16_kernel(standin: Subject) -> None:
    kernel = next(k for k in ALL if k.key == "cuda-fp8/fp32/per_thread")
    mistaken = replace(kernel, family="fp16")
    assert compare_case(standin, kernel, MEDIUM, seed=1).status is Status.PASS
    assert compare_case(standin, mistaken, MEDIUM, seed=1).status is Status.FAIL
