"""Sequences long enough for 32-bit indices to overflow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from builder.smoketest.attention.cases import LONG_CASES
from builder.smoketest.attention.compare import attention, bounds, judge_output
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.subject import DeviceLostError, HiddenLaunchError, Subject, one_line
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict

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


def compare(subject: Subject, spec: RowSpec) -> Result:
    """Compare a kernel's result for a long case with the right one, or accept an exception for a huge one."""
    heads, tokens, layout = LONG_CASES[spec.case]
    huge = heads * tokens * HEAD_DIM > 2**31
    torch.cuda.empty_cache()
    needed = heads * tokens * HEAD_DIM * BYTES_AN_ELEMENT
    free, _ = torch.cuda.mem_get_info(subject.device)
    if free < needed:
        gib = 2**30
        return not_applicable(
            f"needs {needed / gib:.0f} GiB of free GPU memory, {free / gib:.0f} GiB are free"
        )
    shape = (1, heads, tokens, HEAD_DIM) if layout == "HND" else (1, tokens, heads, HEAD_DIM)
    generator = torch.Generator(device=subject.device).manual_seed(subject.seed)
    q, k, v = (
        torch.randn(shape, generator=generator, device=subject.device, dtype=torch.float16) for _ in range(3)
    )
    # As much as the call will allocate: memory that comes fresh from the driver is zero.
    poison(subject.device, needed * 11 // 20)
    try:
        out = subject.call_checked(spec.kernel, q, k, v, tensor_layout=layout)
    except (HiddenLaunchError, DeviceLostError):
        raise
    except Exception as error:
        left = subject.left_behind()
        problems = [f"left a CUDA error behind: {left}"] if left else []
        problems += [] if huge else [f"raised {one_line(error)}"]
        return verdict(problems, {"raised": 1.0}, {"raised": "a Python exception is allowed"})

    not_finite = sum(int((~torch.isfinite(part)).sum().item()) for part in out.flatten(1).split(2**28, dim=1))
    heads_first = [tensor if layout == "HND" else tensor.transpose(1, 2) for tensor in (q, k, v, out)]
    right = subject.kept(RightAnswer)
    if right.name != spec.case:
        # Of a huge case nine windows of rows, from the start to the end.
        windows = torch.linspace(0, tokens - 64, 9).long()[:, None] + torch.arange(64)
        right.rows = (windows.reshape(-1) if huge else torch.arange(tokens)).to(subject.device)
        right.out, _ = attention(*heads_first[:3], rows=right.rows)
        right.name = spec.case  # last, since the memory may not have sufficed
    result = heads_first[3].index_select(2, right.rows)
    problems, figures, limits = judge_output(result, right.out, bounds(spec.kernel, "fp16"))
    if not_finite and not figures["not_finite"]:
        problems.append(f"{not_finite} elements are NaN or infinite, none of them in the rows compared")
    figures |= {"not_finite": float(not_finite), "rows_compared": float(right.rows.numel())}
    return verdict(problems, figures, limits)
