"""Speed that can't be, and first calls."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import FIRST_CALL, Check
from builder.smoketest.report.outcome import Status
from builder.smoketest.rows.speed import first_call, judge

KERNELS = {kernel.key: kernel for kernel in ALL}


def test_a_rate_above_the_bound_is_a_problem() -> None:
    assert judge(5e14, 6e14) == ([], {"tflops": "<= 600"})
    assert judge(7e14, 6e14)[0] == ["700 TFLOP/s is more than the GPU can do (600): work was skipped"]


@pytest.mark.parametrize("key", ["varlen", "cuda-fp16/fp32/per_thread"])
def test_a_first_call_is_timed(standin: Subject, key: str) -> None:
    result = first_call(standin, Check(FIRST_CALL, KERNELS[key], FIRST_CALL, "speed.first_call"))
    assert result.status is Status.PASS
    assert result.figures["first_call_s"] > 0


def test_code_that_the_wheel_lacks_is_an_error_only_for_sageattn(standin: Subject) -> None:
    def lacking(*tensors: object, **arguments: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    for key in ("sageattn", "sm90-fp8/fp32+fp32/per_warp"):
        setattr(standin.module, KERNELS[key].function, lacking)
    check = Check(FIRST_CALL, KERNELS["sm90-fp8/fp32+fp32/per_warp"], FIRST_CALL, "speed.first_call")
    result = first_call(standin, check)
    assert result.status is Status.NOT_APPLICABLE
    assert result.reason.startswith("the wheel lacks the kernel: RuntimeError: CUDA error: no kernel image")
    with pytest.raises(RuntimeError, match="no kernel image"):
        first_call(standin, Check(FIRST_CALL, KERNELS["sageattn"], FIRST_CALL, "speed.first_call"))
