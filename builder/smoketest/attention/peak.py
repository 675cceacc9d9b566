"""The highest rate that a GPU can reach: a kernel that seems faster has skipped work."""

from __future__ import annotations

from builder.smoketest.attention.kernels import Capability

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


def attention_operations(batch: int, heads: int, queries: int, keys: int, head_dim: int) -> float:
    """Return the operations of attention without a mask: multiplications and additions of two products."""
    return 4.0 * batch * heads * queries * keys * head_dim
