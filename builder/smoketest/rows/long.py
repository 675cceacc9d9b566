"""Sequences long enough for 32-bit indices to overflow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import LONG_CASES
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import DeviceLostError, HiddenLaunchError, Subject, one_line
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.accuracy import judge_output

HEAD_DIM = 128
BYTES_AN_ELEMENT = 20
"""Upper bound of a call's memory for each element of Q: inputs and output in 16 bits, int8 and fp8 copies, K
without its mean, V padded and transposed."""


@dataclass
class RightAnswer:
    """The right result of the last long case, computed once for all kernels: that takes long."""

    name: str = ""
    rows: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    out: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def compare(subject: Subject, check: Check) -> Result:
    """Compare a kernel's result for a long case with the right one, or accept an exception for a huge one."""
    heads, tokens, layout = LONG_CASES[check.case]
    huge = heads * tokens * HEAD_DIM > 2**31
    torch.cuda.empty_cache()
    needed = heads * tokens * HEAD_DIM * BYTES_AN_ELEMENT
    free, _ = torch.cuda.mem_get_info(subject.device)
    if free < needed:
        return not_applicable(
            f"needs {needed / 2**30:.0f} GiB of free GPU memory, {free / 2**30:.0f} GiB are free"
        )
    shape = (1, heads, tokens, HEAD_DIM) if layout == "HND" else (1, tokens, heads, HEAD_DIM)
    generator = torch.Generator(device=subject.device).manual_seed(subject.seed)
    q, k, v = (
        torch.randn(shape, generator=generator, device=subject.device, dtype=torch.float16) for _ in range(3)
    )
    # As much as the call will allocate: memory that comes fresh from the driver is zero.
    poison(subject.device, needed * 11 // 20)
    raised = ""
    try:
        out = subject.call_checked(check.kernel, q, k, v, tensor_layout=layout)
    except (HiddenLaunchError, DeviceLostError):
        raise
    except Exception as error:
        raised = one_line(error)
    if raised:
        left = subject.left_behind()
        problems = [f"raised {raised} and left a CUDA error behind: {left}"] if left else []
        if not huge:
            problems.append(f"raised {raised}")
        return verdict(problems, {"raised": 1.0}, {"raised": "a Python exception is allowed"})

    not_finite = sum(int((~torch.isfinite(part)).sum().item()) for part in out.flatten(1).split(2**28, dim=1))
    heads_first = [tensor if layout == "HND" else tensor.transpose(1, 2) for tensor in (q, k, v, out)]
    right = subject.kept(RightAnswer)
    if right.name != check.case:
        right.rows = (sampled_rows(tokens) if huge else torch.arange(tokens)).to(subject.device)
        right.out, _ = attention(*heads_first[:3], rows=right.rows)
        right.name = check.case  # last, since the memory may not have sufficed
    problems, figures, bounds = judge_output(
        heads_first[3].index_select(2, right.rows), right.out, tolerances.bounds(check.kernel, "fp16")
    )
    if not_finite and not figures["not_finite"]:
        problems.append(f"{not_finite} elements are NaN or infinite, none of them in the rows compared")
    figures |= {"not_finite": float(not_finite), "rows_compared": float(right.rows.numel())}
    return verdict(problems, figures, bounds)


def sampled_rows(tokens: int, window: int = 64) -> torch.Tensor:
    """Return the query rows to compare where all are too many: nine windows from the start to the end."""
    starts = torch.linspace(0, tokens - window, 9).long()
    return (starts[:, None] + torch.arange(window)[None, :]).reshape(-1)
