"""Sequences long enough for 32-bit indices to overflow."""

from __future__ import annotations

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
    # Of a huge case nine windows of rows, from the start to the end.
    windows = torch.linspace(0, tokens - 64, 9).long()[:, None] + torch.arange(64)
    rows = (windows.reshape(-1) if huge else torch.arange(tokens)).to(subject.device)
    # Computed once for all kernels: that takes long.
    right = subject.cached(f"right {spec.case}", lambda: attention(*heads_first[:3], rows=rows)[0])
    result = heads_first[3].index_select(2, rows)
    problems, figures, limits = judge_output(result, right, bounds(spec.kernel, "fp16"))
    if not_finite and not figures["not_finite"]:
        problems.append(f"{not_finite} elements are NaN or infinite, none of them in the rows compared")
    figures |= {"not_finite": float(not_finite), "rows_compared": float(rows.numel())}
    return verdict(problems, figures, limits)
