"""Compares each kernel's result with exact attention, while all unwritten memory holds NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.compare import (
    Tolerance,
    attention,
    bounds,
    judge_lse,
    judge_output,
    packed_attention,
)
from builder.smoketest.attention.inputs import make, make_packed, poison
from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, verdict


def compare(subject: Subject, spec: RowSpec) -> Result:
    """Compare a kernel's result for a case with the right one."""
    assert isinstance(spec.parameter, Case | VarlenCase)
    return compare_case(subject, spec.kernel, spec.parameter, spec.seed(subject.seed))


def compare_case(subject: Subject, kernel: Kernel, case: Case | VarlenCase, seed: int) -> Result:
    """Compare a kernel's result with the right one, and the caller's tensors with what they were before."""
    lse = right_lse = None
    if isinstance(case, VarlenCase):
        inputs, arguments = make_packed(case, seed, subject.device)
    else:
        inputs = make(case, seed, subject.device)
    before = inputs.snapshot()
    poison(subject.device)
    if isinstance(case, VarlenCase):
        out = subject.call_checked(kernel, *arguments, is_causal=case.causal)
        right = packed_attention(*inputs.tensors, sequences=case.sequences, causal=case.causal)
    else:
        layout = {"tensor_layout": case.layout, "is_causal": case.causal, "return_lse": case.return_lse}
        returned = subject.call_checked(kernel, *inputs.tensors, **layout)
        out, lse = returned if case.return_lse else (returned, None)
        right, right_lse = attention(*inputs.heads_first(case.layout), causal=case.causal)
    q = inputs.tensors[0]
    if out.shape != q.shape or out.dtype != q.dtype:
        said = f"result is {tuple(out.shape)} of {out.dtype}, expected {tuple(q.shape)} of {q.dtype}"
        return verdict([said])
    if isinstance(case, Case) and case.layout == "NHD":
        out = out.transpose(1, 2)
    problems, figures, limits = judge_output(out, right, bounds(kernel, case.dtype))
    if isinstance(case, Case) and case.return_lse:
        assert right_lse is not None
        more, lse_figures, lse_limits = judge_lse(lse, right_lse)
        problems += more
        figures |= lse_figures
        limits |= lse_limits
    if inputs.changed_since(before):
        problems.append("the caller's tensors were changed")
    return verdict(problems, figures, limits)


def wrong(
    subject: Subject,
    kernel: Kernel,
    tensors: Sequence[torch.Tensor],
    *,
    limits: Tolerance | None = None,
    exact: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> list[str]:
    """Call a kernel with ``[batch, heads, tokens, head_dim]``; return what is wrong with the result.

    Args:
        limits: The kernel's own by default.
        exact: What `attention` takes besides the tensors.
        arguments: What the kernel takes besides them.
    """
    q, k, v = tensors
    poison(subject.device)
    out = subject.attend(kernel, q, k, v, **arguments)
    right, _ = attention(q, k, v, **(exact or {}))
    limits = limits or bounds(kernel, "bf16" if q.dtype is torch.bfloat16 else "fp16")
    return judge_output(out, right, limits)[0]
