"""Bad input has to be refused."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.rows.conduct.refusals import bad_input

FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")
CHECK = Check("conduct", FP16, "bad input is refused", "conduct.refusals.bad_input")


def test_bad_input_has_to_be_refused(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bad_input(standin, CHECK).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", "takes-anything")
    result = bad_input(standin, CHECK)
    assert "head_dim 256: accepted without an exception" in result.reason
    assert "fp32: accepted without an exception" in result.reason
