"""A compiled function around a kernel: right, and seen where it is not."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.rows.conduct.compiled import aot_eager

FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")
CHECK = Check("conduct", FP16, "torch.compile", "conduct.compiled.aot_eager")


def test_a_wrong_compiled_result_is_seen(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler imports the module of what it traces by its name.
    monkeypatch.setitem(sys.modules, standin.module.__name__, standin.module)
    with torch.no_grad():
        assert aot_eager(standin, CHECK).reason == ""
        monkeypatch.setenv("STANDIN_FAULT", "scale")
        result = aot_eager(standin, CHECK)
    assert "1024 tokens: relative error" in result.reason
    assert "640 tokens: relative error" in result.reason
