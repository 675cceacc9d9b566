"""Compares each kernel's result with fp32 attention, while all unwritten memory holds NaN."""

from __future__ import annotations

from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.inputs import Inputs, make, make_packed, poison
from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.reference import attention, difference, packed_attention
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, Status, verdict


def compare(subject: Subject, check: Check) -> Result:
    """Compare a kernel's result for a case with the right one."""
    assert isinstance(check.asked, Case | VarlenCase)
    return compare_case(subject, check.kernel, check.asked, check.seed(subject.seed))


def compare_case(subject: Subject, kernel: Kernel, case: Case | VarlenCase, seed: int) -> Result:
    """Compare a kernel's result with the right one, and the caller's tensors with what they were before."""
    if isinstance(case, VarlenCase):
        return _run_varlen(subject, kernel, case, seed)
    inputs = make(case, seed, subject.device)
    before = inputs.snapshot()
    poison(subject.device)
    arguments: dict[str, Any] = {"tensor_layout": case.layout, "is_causal": case.causal}
    returned = subject.call_checked(kernel, *inputs.tensors, return_lse=case.return_lse, **arguments)
    out, lse = returned if case.return_lse else (returned, None)
    q, k, v = inputs.heads_first(case.layout)
    right, right_lse = attention(q, k, v, causal=case.causal)
    shape = tuple(inputs.q.shape)
    if tuple(out.shape) != shape or out.dtype != inputs.q.dtype:
        return Result(
            Status.FAIL, f"result is {tuple(out.shape)} of {out.dtype}, expected {shape} of {q.dtype}"
        )
    out = out if case.layout == "HND" else out.transpose(1, 2)
    problems, figures, bounds = judge_output(out, right, tolerances.bounds(kernel, case.dtype))
    if case.return_lse:
        more, lse_figures, lse_bounds = judge_lse(lse, right_lse)
        problems += more
        figures |= lse_figures
        bounds |= lse_bounds
    return _result(inputs, before, problems, figures, bounds)


def _run_varlen(subject: Subject, kernel: Kernel, case: VarlenCase, seed: int) -> Result:
    inputs, arguments = make_packed(case, seed, subject.device)
    before = inputs.snapshot()
    poison(subject.device)
    out = subject.call_checked(kernel, *arguments, is_causal=case.causal)
    right = packed_attention(*inputs.tensors, sequences=case.sequences, causal=case.causal)
    problems, figures, bounds = judge_output(out, right, tolerances.bounds(kernel, case.dtype))
    return _result(inputs, before, problems, figures, bounds)


def judge_output(
    out: torch.Tensor, right: torch.Tensor, bounds: tolerances.Tolerance
) -> tuple[list[str], dict[str, float], dict[str, str]]:
    """Compare an output with the right answer.

    Returns:
        Problems in words, the figures, and the limits as text.
    """
    seen = difference(out, right)
    figures = {
        "not_finite": float(seen.not_finite),
        "cosine": seen.cosine,
        "relative_error": seen.relative_error,
        "worst_row": seen.worst_row,
    }
    return bounds.broken(seen), figures, bounds.as_text()


def judge_lse(
    lse: torch.Tensor | None, right: torch.Tensor
) -> tuple[list[str], dict[str, float], dict[str, str]]:
    """Compare a natural logsumexp ``[batch, heads, tokens]`` with the right one, as `judge_output` does."""
    bounds = {"lse_rms": f"<= {tolerances.LSE_RMS}", "lse_max": f"<= {tolerances.LSE_MAX}"}
    if lse is None or tuple(lse.shape) != tuple(right.shape):
        shape = None if lse is None else tuple(lse.shape)
        return [f"logsumexp is {shape}, expected {tuple(right.shape)}"], {}, bounds
    delta = (lse.float() - right).double()
    rms, worst = float(delta.pow(2).mean().sqrt().item()), float(delta.abs().max().item())
    problems = []
    if not rms <= tolerances.LSE_RMS:
        problems.append(f"logsumexp's error {rms:.4f} > {tolerances.LSE_RMS} (root mean square)")
    if not worst <= tolerances.LSE_MAX:
        problems.append(f"logsumexp's largest error {worst:.4f} > {tolerances.LSE_MAX}")
    return problems, {"lse_rms": rms, "lse_max": worst}, bounds


def _result(
    inputs: Inputs,
    before: tuple[torch.Tensor, ...],
    problems: list[str],
    figures: dict[str, float],
    bounds: dict[str, str],
) -> Result:
    if inputs.changed_since(before):
        problems = [*problems, "the caller's tensors were changed"]
    return verdict(problems, figures, bounds)


def poisoned(subject: Subject, _: Check) -> Result:
    """New tensors hold NaN after poisoning; without that, no row would notice output that was not written."""
    poison(subject.device)
    clean = []
    for size in (512, 2**16, 2**20, 2**22, 2**26):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            fresh = torch.empty(size // dtype.itemsize, dtype=dtype, device=subject.device)
            if not bool(torch.isnan(fresh.float()).all()):
                clean.append(f"{size} bytes of {dtype} are not all NaN")
            del fresh
            poison(subject.device)
    return verdict(clean)
