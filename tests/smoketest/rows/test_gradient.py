"""A gradient that is silently not there is seen."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.kernels import kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.rows.gradient import compiled, eager

SAGEATTN, VARLEN = kernels_for((9, 0), ("sageattn", "varlen"))


@pytest.fixture(autouse=True)
def _no_grad() -> None:
    torch.set_grad_enabled(False)


@pytest.mark.parametrize("kernel", [SAGEATTN, VARLEN], ids=lambda kernel: kernel.key)
def test_an_error_in_backward_passes_and_silence_fails(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, kernel: object
) -> None:
    check = Check("gradient", kernel, "backward() raises", "gradient.eager")  # type: ignore[arg-type]
    assert eager(standin, check).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", "silent-gradient")
    assert "q require grad: the output does not require grad" in eager(standin, check).reason


def test_silence_is_seen_in_compiled_code(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler imports the module of what it traces by its name.
    monkeypatch.setitem(sys.modules, standin.module.__name__, standin.module)
    monkeypatch.setenv("STANDIN_FAULT", "silent-gradient")
    check = Check("gradient", SAGEATTN, "backward() raises, compiled", "gradient.compiled")
    assert "the output does not require grad" in compiled(standin, check).reason
