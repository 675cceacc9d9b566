"""Sequences long enough for 32-bit indices to overflow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from builder.smoketest import limits
from builder.smoketest import plan as names
from builder.smoketest.inputs import poison
from builder.smoketest.kernels import Kernel
from builder.smoketest.reference import attention
from builder.smoketest.rows.accuracy import judge_output
from builder.smoketest.rows.result import Result, not_applicable, verdict
from builder.smoketest.subject import DeviceLostError, HiddenLaunchError, Subject, one_line

HEAD_DIM = 128
BYTES_AN_ELEMENT = 20
"""Upper bound of what a call needs an element of Q: inputs and output in 16 bits, int8 and fp8 copies, K
without its mean, V padded and transposed."""


@dataclass
class Right:
    """The right answer of the last long case, which is dear: all kernels are held against the same."""

    key: tuple[object, ...] = ()
    rows: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    out: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def run(subject: Subject, kernel: Kernel, name: str, seed: int, cache: Right) -> Result:
    """One long row, by its name in `builder.smoketest.plan`."""
    if not subject.on_gpu:
        return not_applicable("needs a GPU")
    heads, tokens, layout = {
        names.TOKENS_200K: (4, 200_000, "HND"),
        names.HUGE_HND: (64, 270_000, "HND"),
        names.HUGE_NHD: (64, 270_000, "NHD"),
    }[name]
    torch.cuda.empty_cache()
    needed = heads * tokens * HEAD_DIM * BYTES_AN_ELEMENT
    free, _ = torch.cuda.mem_get_info(subject.device)
    if free < needed:
        return not_applicable(
            f"needs {needed / 2**30:.0f} GiB of free GPU memory, there are {free / 2**30:.0f}"
        )
    shape = (1, heads, tokens, HEAD_DIM) if layout == "HND" else (1, tokens, heads, HEAD_DIM)
    generator = torch.Generator(device=subject.device).manual_seed(seed)
    q, k, v = (_normal(shape, generator, subject.device) for _ in range(3))
    # All that the call will allocate, so that no part of it is fresh from the driver, which is zero.
    poison(subject.device, needed * 11 // 20)
    raised = ""
    out = None
    try:
        out = subject.call_checked(kernel, q, k, v, tensor_layout=layout)
    except (HiddenLaunchError, DeviceLostError):
        raise
    except Exception as error:
        raised = one_line(error)
    if out is None:
        left = subject.left_behind()
        problems = [f"raised {raised} and left a CUDA error behind: {left}"] if left else []
        if name == names.TOKENS_200K:
            problems.append(f"raised {raised}")
        return verdict(problems, {"raised": 1.0}, {"raised": "a Python exception is allowed"})

    not_finite = sum(int((~torch.isfinite(part)).sum().item()) for part in out.flatten(1).split(2**28, dim=1))
    heads_first = [tensor if layout == "HND" else tensor.transpose(1, 2) for tensor in (q, k, v, out)]
    right = _right(cache, (name, seed), *heads_first[:3], everything=name == names.TOKENS_200K)
    rows = right.rows.to(subject.device)
    problems, figures, bounds = judge_output(
        heads_first[3].index_select(2, rows), right.out, limits.bounds(kernel, "fp16")
    )
    if not_finite and not figures["not_finite"]:
        problems.append(f"{not_finite} elements are NaN or infinite, none of them in the rows compared")
    figures |= {"not_finite": float(not_finite), "rows_compared": float(rows.numel())}
    return verdict(problems, figures, bounds)


def _normal(shape: tuple[int, ...], generator: torch.Generator, device: str) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float16)


def _right(
    cache: Right,
    key: tuple[object, ...],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    everything: bool,
) -> Right:
    if cache.key != key:
        rows = torch.arange(q.shape[2]) if everything else sampled_rows(q.shape[2])
        cache.out, _ = attention(q, k, v, rows=rows)
        cache.rows = rows
        cache.key = key
    return cache


def sampled_rows(tokens: int, window: int = 64) -> torch.Tensor:
    """Query rows to compare where all are too many: windows at the start, the end, and seven between."""
    starts = torch.linspace(0, tokens - window, 9).long()
    return (starts[:, None] + torch.arange(window)[None, :]).reshape(-1)
