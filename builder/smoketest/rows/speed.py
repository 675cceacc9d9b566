"""Times the kernels and torch's own attention, and checks that the GPU can be so fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.inputs import arguments, make
from builder.smoketest.attention.kernels import SAGEATTN
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import NEVER_SLOWER, RowSpec
from builder.smoketest.report import Result, Status, not_applicable, verdict

HEADS = 32
HEAD_DIM = 128
SHORT_S, CHUNK, SLEEP_CYCLES = 0.001, 50, 20_000_000
"""50 calls of less than a millisecond are launched while the GPU sleeps for about 11 ms."""
LEAST_RATIO = 0.97
"""Of torch's time to that of `sageattn`."""
LARGEST_RATIO = 4.0
"""Of torch's time to ours: no GPU multiplies int8 more than four times as fast as what torch needs."""


def timed(subject: Subject, spec: RowSpec) -> Result:
    """Time one kernel at one length: 32 heads of 128, fp16, no mask."""
    assert isinstance(spec.parameter, int)
    tokens = spec.parameter
    case = Case((tokens, tokens), head_dim=HEAD_DIM)
    tensors = make(case, spec.seed(subject.seed), subject.device, heads=HEADS).tensors
    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, *tensors)
    torch_s, ours_s = steady_s([sdpa, partial(subject.call, spec.kernel, *tensors)], seconds=0.15)
    left = subject.left_behind()
    problems = [f"left a CUDA error behind: {left}"] if left else []
    ratio = torch_s / ours_s
    if ratio > LARGEST_RATIO:
        problems.append(f"{ratio:.1f} times as fast as torch's attention: work was skipped")
    operations = 4.0 * HEADS * tokens * tokens * HEAD_DIM
    figures = {
        "median_s": ours_s,
        "tflops": operations / ours_s / 1e12,
        "sdpa_median_s": torch_s,
        "sdpa_tflops": operations / torch_s / 1e12,
        "times_sdpa": ratio,
    }
    return verdict(problems, figures, {"times_sdpa": f"<= {LARGEST_RATIO}"})


def steady_s(calls: Sequence[Callable[[], Any]], *, seconds: float, turns: int = 2) -> list[float]:
    """Return the GPU time of each call in a steady state: each alone for some seconds, in turns.

    What ran just before decides a short timing, since the card is bound by its power. Short calls are queued
    behind a sleep of the GPU, so that the time to launch them does not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for call in calls:
        call()
    torch.cuda.synchronize()
    chunk = CHUNK if time.perf_counter() - start < SHORT_S * len(calls) else 1
    for _ in range(turns):
        for call, of_call in zip(calls, times, strict=True):
            samples, start = [], time.perf_counter()
            while time.perf_counter() - start < seconds:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                if chunk > 1:
                    torch.cuda._sleep(SLEEP_CYCLES)
                begin.record()
                for _ in range(chunk):
                    call()
                end.record()
                torch.cuda.synchronize()
                samples.append(begin.elapsed_time(end) / 1000 / chunk)
            of_call.append(statistics.median(samples[len(samples) // 2 :]))
    return [min(of_call) for of_call in times]


def never_slower(subject: Subject, spec: RowSpec) -> Result:
    """`sageattn` takes no more time than torch's attention on the GPU, whichever of the two it takes."""
    if subject.capability != (9, 0):
        return not_applicable("what is faster was measured on compute capability 9.0 alone")
    batch, heads, key_heads, queries, keys, dim, mask = NEVER_SLOWER[spec.case.removeprefix("never slower: ")]
    torch.manual_seed(spec.seed(subject.seed))
    normal = partial(torch.randn, device=subject.device, dtype=torch.bfloat16)
    q = normal(batch, heads, queries, dim)
    k, v = (normal(batch, key_heads, keys, dim) for _ in range(2))
    attn_mask = None
    if mask == "bool":
        attn_mask = torch.rand(queries, keys, device=subject.device) < 0.9
    elif mask == "padding":
        attn_mask = (torch.arange(keys, device=subject.device) < keys - 500)[None, None, None]
    rest = {"attn_mask": attn_mask, "is_causal": mask == "causal", "enable_gqa": heads != key_heads}
    sdpa = torch.nn.functional.scaled_dot_product_attention
    torchs, ours = steady_s(
        [partial(sdpa, q, k, v, **rest), partial(subject.module.sageattn, q, k, v, **rest)], seconds=0.2
    )
    ratio = torchs / ours
    problems = [] if ratio >= LEAST_RATIO else [f"{ratio:.3f} times as fast as torch's < {LEAST_RATIO}"]
    figures = {"times_sdpa": ratio, "median_s": ours, "sdpa_median_s": torchs}
    return verdict(problems, figures, {"times_sdpa": f">= {LEAST_RATIO}"})


def first_call(subject: Subject, spec: RowSpec) -> Result:
    """Time a kernel's first call, with loading and compiling, and see whether the wheel has its code.

    A kernel whose code the wheel lacks for this GPU is not applicable, unless it is the one that ``sageattn``
    chooses here.
    """
    kernel = spec.kernel
    reason = kernel.why_not(subject.capability) if subject.on_gpu else ""
    if reason:
        return not_applicable(reason)
    case = VarlenCase(((256, 256),)) if kernel.varlen else Case((256, 256))
    inputs = arguments(case, spec.seed(subject.seed), subject.device)
    start = time.perf_counter()
    try:
        subject.call_checked(kernel, *inputs)
    except Exception as error:
        # The CUDA runtime's words, or those of core.py.
        missing = any(words in str(error) for words in ("no kernel image", "kernel is not available"))
        if missing and kernel.key != SAGEATTN.key:
            return not_applicable(f"the wheel lacks the kernel: {one_line(error)}")
        raise
    return Result(Status.PASS, figures={"first_call_s": time.perf_counter() - start})
