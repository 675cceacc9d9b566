"""Times the kernels and torch's own attention, and checks that the GPU can be so fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.inputs import arguments, make
from builder.smoketest.attention.kernels import SAGEATTN
from builder.smoketest.attention.peak import attention_operations, highest_rate
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, Status, not_applicable, verdict
from builder.smoketest.run.environment import ask_nvidia_smi

HEADS = 32
HEAD_DIM = 128
SAMPLES = 7
SAMPLE_S = 0.02
"""A sample repeats the call until it takes about this long, so that the launch does not count."""
LEAST_GROWTH = 6.0
"""Attention's time grows 16-fold when the tokens grow fourfold, and at least this much from 8k to 32k; work
that is linear in the tokens takes fourfold."""


@dataclass
class Timings:
    """What has been timed so far, so that torch's own attention is timed once for each length."""

    sdpa_s: dict[int, float] = field(default_factory=dict)
    kernel_s: dict[tuple[str, int], float] = field(default_factory=dict)


def timed(subject: Subject, check: Check) -> Result:
    """Time one kernel at one length: 32 heads of 128, fp16, no mask."""
    assert isinstance(check.asked, int)
    kernel, tokens, timings = check.kernel, check.asked, subject.kept(Timings)
    inputs = make(
        Case((tokens, tokens), head_dim=HEAD_DIM), check.seed(subject.seed), subject.device, heads=HEADS
    )
    q, k, v = inputs.q, inputs.k, inputs.v
    if tokens not in timings.sdpa_s:
        timings.sdpa_s[tokens] = median_s(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    sdpa_s = timings.sdpa_s[tokens]
    seconds = median_s(lambda: subject.call(kernel, q, k, v))
    left = subject.left_behind()
    operations = attention_operations(1, HEADS, tokens, tokens, HEAD_DIM)
    bound = _highest_rate(subject, kernel.family)
    problems, limits = judge(operations / seconds, bound)
    problems += [f"left a CUDA error behind: {left}"] if left else []
    figures = {
        "median_s": seconds,
        "tflops": operations / seconds / 1e12,
        "sdpa_median_s": sdpa_s,
        "sdpa_tflops": operations / sdpa_s / 1e12,
        "times_sdpa": sdpa_s / seconds,
        "peak_tflops": bound / 1e12,
    }
    timings.kernel_s[kernel.key, tokens] = seconds
    before = timings.kernel_s.get((kernel.key, tokens // 4))
    if before is not None and tokens >= 32768:
        figures["growth_from_a_quarter"] = seconds / before
        limits["growth_from_a_quarter"] = f">= {LEAST_GROWTH}"
        if seconds / before < LEAST_GROWTH:
            problems.append(
                f"took only {seconds / before:.1f} times as long as at {tokens // 4} tokens: work was skipped"
            )
    return verdict(problems, figures, limits)


def judge(rate: float, bound: float) -> tuple[list[str], dict[str, str]]:
    """Compare a rate (operations a second) with what the GPU can do."""
    problems = []
    if rate > bound:
        problems.append(
            f"{rate / 1e12:.0f} TFLOP/s is more than the GPU can do ({bound / 1e12:.0f}): work was skipped"
        )
    return problems, {"tflops": f"<= {bound / 1e12:.0f}"}


def median_s(call: Callable[[], Any]) -> float:
    """Return the median time of a call in seconds, by CUDA events, after warm-up.

    Waits for all streams of the device between samples: otherwise the time of a kernel that is launched on
    another stream than the events' would be too short.
    """
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    once_s = max(time.perf_counter() - start, 1e-6)
    repeats = max(1, min(200, round(SAMPLE_S / once_s)))
    samples = []
    for _ in range(SAMPLES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        samples.append(begin.elapsed_time(end) / 1000 / repeats)
    return float(statistics.median(samples))


def _highest_rate(subject: Subject, family: str) -> float:
    properties = torch.cuda.get_device_properties(subject.device)
    clock_hz = _highest_clock_hz(str(getattr(properties, "uuid", None) or ""))
    return highest_rate(subject.capability, properties.multi_processor_count, clock_hz, family)


@cache
def _highest_clock_hz(uuid: str) -> float | None:
    """Return the highest clock of a GPU; None if it can't be asked."""
    answer = ask_nvidia_smi("clocks.max.sm", *([f"--id=GPU-{uuid}"] if uuid else []))
    try:
        return max(map(float, answer), default=0.0) * 1e6 or None
    except ValueError:
        return None


def first_call(subject: Subject, check: Check) -> Result:
    """Time a kernel's first call, with loading and compiling, and see whether the wheel has its code.

    A kernel whose code the wheel lacks for this GPU is not applicable, unless it is the one that ``sageattn``
    chooses here.
    """
    kernel = check.kernel
    reason = kernel.why_not(subject.capability) if subject.on_gpu else ""
    if reason:
        return not_applicable(reason)
    case = VarlenCase(((256, 256),)) if kernel.varlen else Case((256, 256))
    inputs = arguments(case, check.seed(subject.seed), subject.device)
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
