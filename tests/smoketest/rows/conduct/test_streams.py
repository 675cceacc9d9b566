"""What the stream rows compare with."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject
from builder.smoketest.rows.conduct.streams import eager

FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")


def test_two_equal_wrong_results_prove_nothing(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((65, 65), head_dim=64)
    assert eager(standin, FP16, 1, case).problems == []
    monkeypatch.setenv("STANDIN_FAULT", "unwritten")
    assert "already wrong on the default stream" in eager(standin, FP16, 1, case).problems[0]
