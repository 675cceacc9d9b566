"""Large values."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.cases import RANGE_DEFAULT, RangeCase
from builder.smoketest.attention.kernels import kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.rows.ranges import far_below, finite

KERNELS = {kernel.key: kernel for kernel in kernels_for((9, 0))}
LARGE_V = [case for case in RANGE_DEFAULT if case.v > 1e4 or case.v_channel > 1e4]


@pytest.mark.parametrize("key", ["cuda-fp8/fp32+fp16/per_thread", "cuda-fp16/fp32/per_thread", "varlen"])
@pytest.mark.parametrize("case", RANGE_DEFAULT, ids=lambda case: case.name)
def test_a_right_kernel_passes(standin: Subject, key: str, case: RangeCase) -> None:
    assert finite(standin, Check("range", KERNELS[key], case, "ranges.finite")).reason == ""


@pytest.mark.parametrize(
    "case", [case for case in LARGE_V if case.dtype == "bf16"], ids=lambda case: case.name
)
def test_one_that_casts_v_to_fp16_fails(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, case: RangeCase
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "large-v")
    check = Check("range", KERNELS["cuda-fp16/fp32/per_thread"], case, "ranges.finite")
    assert "are NaN or infinite" in finite(standin, check).reason


@pytest.mark.parametrize(("fault", "reason"), [("", ""), ("causal", "causal: cosine")])
@pytest.mark.parametrize("key", ["sageattn", "varlen"])
def test_keys_far_below_zero(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, key: str, fault: str, reason: str
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", fault)
    result = far_below(standin, Check("range", KERNELS[key], "far below", "ranges.far_below"))
    assert result.reason.startswith(reason)
    assert bool(result.reason) == bool(reason)


def test_an_output_outside_of_the_range_of_v_is_seen(
    standin: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = RangeCase("Q and K", q=1e4, k=1e4, v=0.01, compared=False)
    check = Check("range", KERNELS["cuda-fp16/fp32/per_thread"], case, "ranges.finite")
    assert finite(standin, check).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", "one-row")
    assert "times the largest of V" in finite(standin, check).reason
