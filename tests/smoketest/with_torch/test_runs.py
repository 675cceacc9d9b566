"""Whole runs on the CPU, and rows of a real worker: the fake, the exit code and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import Options, RowSpec, plan
from builder.smoketest.report import ExitCode, Status
from builder.smoketest.run.worker import Runner

ROOT = Path(__file__).resolve().parents[3]
FAKE = ROOT / "tests" / "fakes" / "fake_sageattention"
FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")


def smoketest(fault: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "builder.smoketest", "--device", "cpu", "--no-speed", *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{FAKE}", "FAKE_FAULT": fault, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_whole_run_on_a_fake_is_no_pass(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    done = smoketest("", "--quick", "--kernels", "varlen", "--json", str(path))
    assert done.returncode == ExitCode.STAND_IN, done.stdout + done.stderr
    assert "stand-in device: no wheel was tested" in done.stdout
    assert json.loads(path.read_text())["outcome"] == "stand-in"


def test_a_kernel_that_aborts_the_process_is_a_failed_row_and_the_rest_runs() -> None:
    kernels = "cuda-fp8/fp32/per_warp,varlen"
    done = smoketest("abort", "--quick", "--kernels", kernels, "--groups", "accuracy")
    assert done.returncode == ExitCode.FAILURES
    table, _, _ = done.stdout.partition("rows did not pass")
    rows = [line.split()[:3] for line in table.splitlines() if line[9:17] == "accuracy"]
    assert [(row[0], row[2]) for row in rows if row[0] != "accuracy"] == [
        ("pass", "cuda-fp8/fp32/per_warp"),
        ("FAIL", "cuda-fp8/fp32/per_warp"),
        ("pass", "varlen"),
    ], done.stdout + done.stderr
    assert "the process was ended by SIGABRT" in done.stdout


@pytest.fixture
def runner(subject: Subject) -> Runner:
    with torch.set_grad_enabled(True):
        return Runner(Options(device=subject.device, seed=3), (9, 0))


def test_an_exception_fails_its_row(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RowSpec("accuracy", FP16, Case((17, 17), head_dim=96), "accuracy.compare", needs_gpu=False)
    result, lost = runner.run(spec)
    assert (result.status, result.reason, lost) == (Status.PASS, "", False)
    monkeypatch.setenv("FAKE_FAULT", "raise")
    result, lost = runner.run(spec)
    assert (result.status, result.reason) == (Status.FAIL, "RuntimeError: the fake was told to raise")


def test_a_row_that_needs_a_gpu_is_not_applicable_without_one(runner: Runner) -> None:
    result, lost = runner.run(RowSpec("speed", FP16, 1024, "speed.timed"))
    assert (result.status, result.reason, lost) == (Status.NOT_APPLICABLE, "needs a GPU", False)


def test_rows_that_compute_nothing_on_a_cpu_say_so(runner: Runner) -> None:
    specs = plan(Options(), (9, 0))
    assert {runner.run(spec)[0].status for spec in specs if spec.needs_gpu} == {Status.NOT_APPLICABLE}


def test_an_exception_in_one_line() -> None:
    assert one_line(ValueError("\n  first \nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 500))) == 200
