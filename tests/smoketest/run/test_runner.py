"""One row at a time: its result, and what an exception in it comes to."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from pathlib import Path

import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.kernels import ALL
from builder.smoketest.plan import Check, Options
from builder.smoketest.report.outcome import Status
from builder.smoketest.run.runner import Runner

STANDIN = Path(__file__).parents[1] / "standin"
FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.syspath_prepend(str(STANDIN))
    with torch.set_grad_enabled(True):
        return Runner(Options(device="cpu", seed=3), (9, 0))


def test_a_row_is_run_by_the_function_that_the_plan_names(runner: Runner) -> None:
    check = Check("accuracy", FP16, Case((17, 17), head_dim=64), "accuracy.compare", needs_gpu=False)
    result, lost = runner.run(check)
    assert (result.status, result.reason, lost) == (Status.PASS, "", False)
    assert result.figures["relative_error"] < 0.02


def test_a_row_that_needs_a_gpu_is_not_applicable_without_one(runner: Runner) -> None:
    result, lost = runner.run(Check("speed", FP16, 1024, "speed.timed"))
    assert (result.status, result.reason, lost) == (Status.NOT_APPLICABLE, "needs a GPU", False)


def test_an_exception_fails_its_row(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "raise")
    check = Check("accuracy", FP16, Case((17, 17), head_dim=96), "accuracy.compare", needs_gpu=False)
    result, lost = runner.run(check)
    assert (result.status, lost) == (Status.FAIL, False)
    assert result.reason == "RuntimeError: the stand-in was told to raise"
