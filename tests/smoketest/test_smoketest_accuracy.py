"""The accuracy rows go green for a right kernel, and red for each way in which one can be wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest import limits, plan
from builder.smoketest.cases import Case, VarlenCase, covering_set
from builder.smoketest.inputs import GUARD_ELEMENTS, guarded, make
from builder.smoketest.kernels import ALL, Kernel, kernels_for
from builder.smoketest.outcome import ExitCode, Status
from builder.smoketest.reference import attention, difference
from builder.smoketest.rows import accuracy, conduct
from builder.smoketest.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
SAGEATTN = kernels_for((9, 0), ("sageattn",))[0]
FP16 = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp32/per_thread")
SMOOTH_V = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp16/smooth_v")
VARLEN = next(kernel for kernel in ALL if kernel.varlen)
SMALL = [case for case in covering_set() if max(case.lengths) < 1000][::2]

# One thread: the tensors are small, and a busy machine makes several wait for each other.
torch.set_num_threads(1)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("kernel", [SAGEATTN, FP16], ids=lambda kernel: kernel.family)
def test_a_right_kernel_passes(standin: Subject, kernel: Kernel, case: Case) -> None:
    result = accuracy.run(standin, kernel, case, seed=1)
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
    assert accuracy.run(standin, VARLEN, case, seed=1).reason == ""


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
    assert accuracy.run(standin, FP16, case, seed=1).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", fault)
    result = accuracy.run(standin, FP16, case, seed=1)
    assert result.status is Status.FAIL
    assert reason in result.reason


def test_a_faulty_varlen_kernel_fails(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    case = VarlenCase(((17, 17), (65, 65)))
    monkeypatch.setenv("STANDIN_FAULT", "tail")
    assert "are NaN" in accuracy.run(standin, VARLEN, case, seed=1).reason


def test_fp8s_error_is_too_much_for_an_fp16_kernel(standin: Subject) -> None:
    kernel = next(k for k in ALL if k.key == "cuda-fp8/fp32/per_thread")
    mistaken = type(kernel)(**{**vars(kernel), "family": "fp16"})
    assert accuracy.run(standin, kernel, MEDIUM, seed=1).status is Status.PASS
    assert accuracy.run(standin, mistaken, MEDIUM, seed=1).status is Status.FAIL


def test_bad_input_has_to_be_refused(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "CASE", Case((65, 65), head_dim=64))
    assert conduct.run(standin, FP16, plan.BAD_INPUT, seed=1).reason == ""
    monkeypatch.setenv("STANDIN_FAULT", "takes-anything")
    result = conduct.run(standin, FP16, plan.BAD_INPUT, seed=1)
    assert "head_dim 256: taken without an exception" in result.reason
    assert "fp32: taken without an exception" in result.reason


def test_two_equal_wrong_results_prove_nothing(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((65, 65), head_dim=64)
    assert conduct.eager(standin, FP16, 1, case).problems == []
    monkeypatch.setenv("STANDIN_FAULT", "unwritten")
    assert "already wrong on the default stream" in conduct.eager(standin, FP16, 1, case).problems[0]


def test_the_mean_of_v_taken_out_in_bf16_has_a_limit_of_its_own() -> None:
    assert limits.bounds(SMOOTH_V, "bf16") == limits.COARSE_MEAN
    assert limits.bounds(SMOOTH_V, "fp16") == limits.FAMILIES["fp16"]
    assert limits.bounds(FP16, "bf16") == limits.FAMILIES["fp16"]


def test_nan_breaks_every_limit() -> None:
    right = torch.randn(4, 8)
    wrong = right.clone()
    wrong[0, 0] = float("nan")
    assert limits.FAMILIES["fp8"].broken(difference(wrong, right)) == ["1 elements are NaN or infinite"]
    assert limits.FAMILIES["fp8"].broken(difference(right, right)) == []


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("budget_bytes", [4 * 40, 4 * 40 * 7, 2**29])
def test_the_reference_is_right_in_chunks_of_any_size(causal: bool, budget_bytes: int) -> None:
    q, k, v = torch.randn(2, 6, 40, 16), torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 16)
    out, lse = attention(q, k, v, causal=causal, budget_bytes=budget_bytes)
    right, right_lse = plain_attention(q, k, v, causal)
    assert torch.allclose(out.double(), right, atol=1e-5)
    assert torch.allclose(lse.double(), right_lse, atol=1e-5)


def test_the_reference_computes_the_rows_that_are_asked_for() -> None:
    q, k, v = torch.randn(1, 4, 50, 16), torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    rows = torch.tensor([49, 0, 7])
    out, lse = attention(q, k, v, rows=rows, budget_bytes=4 * 2 * 30 * 2)
    right, right_lse = plain_attention(q, k, v)
    assert torch.allclose(out.double(), right[:, :, rows], atol=1e-5)
    assert torch.allclose(lse.double(), right_lse[:, :, rows], atol=1e-5)


@pytest.mark.parametrize("memory", ["packed", "sliced", "transposed"])
@pytest.mark.parametrize("layout", ["HND", "NHD"])
def test_inputs_lie_between_nan_in_the_memory_that_was_asked_for(memory: str, layout: str) -> None:
    case = Case((17, 9), head_dim=64, layout=layout, memory=memory, groups=4, batch=2)
    inputs = make(case, 1, "cpu")
    q, k, v = inputs.heads_first(layout)
    assert q.shape == (2, 16, 17, 64)
    assert k.shape == v.shape == (2, 4, 9, 64)
    for tensor, buffer in zip((inputs.q, inputs.k, inputs.v), inputs.buffers, strict=True):
        assert tensor.stride(-1) == 1
        assert tensor.is_contiguous() == (memory == "packed")
        assert bool(torch.isfinite(tensor).all())
        assert bool(torch.isnan(buffer[:GUARD_ELEMENTS]).all())
        assert bool(torch.isnan(buffer[-GUARD_ELEMENTS:]).all())
        assert int(torch.isfinite(buffer).sum()) == tensor.numel()


def test_the_same_seed_gives_the_same_inputs() -> None:
    case = Case((17, 17))
    assert torch.equal(make(case, 5, "cpu").k, make(case, 5, "cpu").k)
    assert not torch.equal(make(case, 5, "cpu").k, make(case, 6, "cpu").k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_the_poison_is_nan_in_every_type(dtype: torch.dtype) -> None:
    tensor, _ = guarded((3, 5), dtype, "cpu")
    assert bool(torch.isnan(tensor.float()).all())


def test_a_write_into_a_guard_is_seen() -> None:
    inputs = make(Case((17, 17)), 1, "cpu")
    before = inputs.snapshot()
    assert not inputs.changed_since(before)
    inputs.buffers[2][-1] = 0
    assert inputs.changed_since(before)


def smoketest(fault: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).with_name("standin"))])
    return subprocess.run(
        [sys.executable, "-m", "builder.smoketest", "--device", "cpu", "--no-speed", *arguments],
        env={**os.environ, "PYTHONPATH": path, "STANDIN_FAULT": fault, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_whole_run_on_a_stand_in_is_no_pass(tmp_path: Path) -> None:
    json_path, html_path = tmp_path / "r.json", tmp_path / "r.html"
    options = ["--quick", "--kernels", "varlen", "--json", str(json_path)]
    done = smoketest("", *options, "--html", str(html_path))
    assert done.returncode == ExitCode.STAND_IN, done.stdout + done.stderr
    assert "stand-in device: no wheel was tested" in done.stdout
    assert '"outcome": "stand-in"' in json_path.read_text()
    assert "<svg" in html_path.read_text()


def test_a_kernel_that_aborts_the_process_is_a_failed_row_and_the_rest_runs() -> None:
    kernels = "cuda-fp8/fp32/per_warp,varlen"
    done = smoketest("abort", "--quick", "--kernels", kernels, "--groups", "accuracy")
    assert done.returncode == ExitCode.FAILURES
    table, _, _ = done.stdout.partition("rows did not pass")
    accuracy_rows = [line for line in table.splitlines() if line[9:17] == "accuracy" and "|" not in line]
    results = [
        (line[:7].strip(), line[21:].split()[0]) for line in accuracy_rows if line[:4] in ("pass", "FAIL")
    ]
    assert results == [
        ("pass", "cuda-fp8/fp32/per_warp"),
        ("FAIL", "cuda-fp8/fp32/per_warp"),
        ("pass", "varlen"),
    ], done.stdout + done.stderr
    assert "the process was ended by SIGABRT" in done.stdout


def test_free_small_segments_are_asked_for_in_pieces_of_their_own_pool() -> None:
    inputs = importlib.import_module("builder.smoketest.inputs")
    assert inputs.pieces([2**21, 512, 2**20 + 512]) == [2**20, 2**20, 512, 2**20, 512]
