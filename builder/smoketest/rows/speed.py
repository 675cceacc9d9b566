"""Times the kernels and torch's own attention, and checks that the GPU can be so fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.inputs import arguments, make
from builder.smoketest.attention.kernels import SAGEATTN, Capability
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import NEVER_SLOWER, RowSpec
from builder.smoketest.report import Result, Status, not_applicable, verdict
from builder.smoketest.run.environment import ask_nvidia_smi

HEADS = 32
HEAD_DIM = 128
SHORT_S, CHUNK, SLEEP_CYCLES = 0.001, 50, 20_000_000
"""50 calls of less than a millisecond are launched while the GPU sleeps for about 11 ms."""
LEAST_RATIO = 0.97
"""Of torch's time to that of `sageattn`."""
SAMPLES = 7
SAMPLE_S = 0.02
"""A sample repeats the call until it takes about this long, so that the launch does not count."""
LEAST_GROWTH = 6.0
"""Attention's time grows 16-fold when the tokens grow fourfold, and at least this much from 8k to 32k; work
that is linear in the tokens takes fourfold."""


INT8_PER_SM_CLOCK = {
    (7, 5): 2048,
    (8, 0): 4096,
    (8, 6): 2048,
    (8, 7): 4096,
    (8, 9): 2048,
    (9, 0): 8192,
    (10, 0): 16384,
    (10, 3): 16384,
    (12, 0): 2048,
    (12, 1): 2048,
}
"""Dense int8 (and, where there is fp8, fp8) operations for each multiprocessor and clock; a multiplication
and an addition are two. fp16 has half of each. From NVIDIA's architecture white papers: A100 624 TOPS on 108
multiprocessors at 1.41 GHz, RTX 3090 284 on 82 at 1.695, RTX 4090 660.6 on 128 at 2.52, H100 SXM 1979 on 132
at 1.83, B200 4500 on 148, RTX 5090 838 on 170 at 2.407."""

# For a GPU that is not in the table, or whose clock can't be asked: more than any GPU of today has.
UNKNOWN_INT8_PER_SM_CLOCK = 16384
UNKNOWN_CLOCK_HZ = 3.2e9


def highest_rate(capability: Capability, multiprocessors: int, clock_hz: float | None, family: str) -> float:
    """Return the most operations a second that a GPU can do for a family of kernels.

    With fp8, all of the work is at the rate of int8; with fp16, half of it is, and half is at fp16's.

    Args:
        multiprocessors: How many the GPU has.
        clock_hz: Its highest clock; None where that can't be asked.
        family: ``fp16`` or ``fp8`` (see `Kernel`).
    """
    per_clock = INT8_PER_SM_CLOCK.get(capability, UNKNOWN_INT8_PER_SM_CLOCK)
    int8 = float(per_clock) * multiprocessors * (clock_hz or UNKNOWN_CLOCK_HZ)
    return int8 if family == "fp8" else int8 * 2 / 3


@dataclass
class Timings:
    """What has been timed so far, so that torch's own attention is timed once for each length."""

    sdpa_s: dict[int, float] = field(default_factory=dict)
    kernel_s: dict[tuple[str, int], float] = field(default_factory=dict)


def timed(subject: Subject, spec: RowSpec) -> Result:
    """Time one kernel at one length: 32 heads of 128, fp16, no mask."""
    assert isinstance(spec.parameter, int)
    kernel, tokens, timings = spec.kernel, spec.parameter, subject.kept(Timings)
    case = Case((tokens, tokens), head_dim=HEAD_DIM)
    q, k, v = make(case, spec.seed(subject.seed), subject.device, heads=HEADS).tensors
    if tokens not in timings.sdpa_s:
        timings.sdpa_s[tokens] = median_s(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    sdpa_s = timings.sdpa_s[tokens]
    seconds = median_s(lambda: subject.call(kernel, q, k, v))
    left = subject.left_behind()
    operations = 4.0 * HEADS * tokens * tokens * HEAD_DIM
    rate, bound = operations / seconds, _gpu_rate(subject, kernel.family)
    problems = judge(rate, bound)
    limits = {"tflops": f"<= {bound / 1e12:.0f}"}
    problems += [f"left a CUDA error behind: {left}"] if left else []
    figures = {
        "median_s": seconds,
        "tflops": rate / 1e12,
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


def judge(rate: float, bound: float) -> list[str]:
    """Compare a rate (operations a second) with what the GPU can do."""
    if rate <= bound:
        return []
    return [f"{rate / 1e12:.0f} TFLOP/s is more than the GPU can do ({bound / 1e12:.0f}): work was skipped"]


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


def _gpu_rate(subject: Subject, family: str) -> float:
    properties = torch.cuda.get_device_properties(subject.device)
    clock_hz = _highest_clock_hz(str(getattr(properties, "uuid", None) or ""))
    return highest_rate(subject.capability, properties.multi_processor_count, clock_hz, family)


@cache
def _highest_clock_hz(uuid: str) -> float | None:
    """Return the highest clock of a GPU; None if it can't be asked."""
    clocks = ask_nvidia_smi("clocks.max.sm", *([f"--id=GPU-{uuid}"] if uuid else []))
    try:
        return max(map(float, clocks), default=0.0) * 1e6 or None
    except ValueError:
        return None


def steady_s(calls: Sequence[Callable[[], Any]], *, seconds: float, turns: int = 2) -> list[float]:
    """Return the GPU time of each call in a steady state: each alone for some seconds, in turns.

    What ran just before decides a short timing, since the card is bound by its power. Short calls are queued
    behind a sleep of the GPU, so that the time to launch them does not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    chunk = 1 if max(map(median_s, calls)) > SHORT_S else CHUNK
    for _ in range(turns):
        for call, of_call in zip(calls, times, strict=True):
            samples, start = [], time.perf_counter()
            while time.perf_counter() - start < seconds:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                if chunk > 1:
                    torch.cuda._sleep(SLEEP_CYCLES)
                begin.record()
                for _ in range(chunk):
                    call()
                end.record()
                end.synchronize()
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
