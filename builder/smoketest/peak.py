"""The highest rate that a GPU can have: a kernel that is faster has skipped work."""

from __future__ import annotations

from dataclasses import dataclass

from builder.smoketest.kernels import Capability

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
"""Dense int8 (and, where there is fp8, fp8) operations a multiprocessor and clock: a multiplication and an
addition are two. fp16 has half of each. From NVIDIA's architecture white papers: A100 624 TOPS on 108
multiprocessors at 1.41 GHz, RTX 3090 284 on 82 at 1.695, RTX 4090 660.6 on 128 at 2.52, H100 SXM 1979 on 132
at 1.83, B200 4500 on 148, RTX 5090 838 on 170 at 2.407."""

UNKNOWN_INT8_PER_SM_CLOCK = 16384
UNKNOWN_CLOCK_HZ = 3.2e9


@dataclass(frozen=True)
class Peak:
    """Upper bounds on attention's rate.

    Attributes:
        fp16: For kernels whose product of P and V is in fp16: half the work at int8's rate, half at fp16's.
        fp8: For kernels with fp8: all of it at the int8 rate.
        origin: What the bounds were made from.
    """

    fp16: float
    fp8: float
    origin: str

    def of(self, family: str) -> float:
        """Operations a second for a family."""
        return self.fp8 if family == "fp8" else self.fp16


def peak(capability: Capability, multiprocessors: int, clock_hz: float | None) -> Peak:
    """The bounds for a GPU.

    Args:
        multiprocessors: How many the GPU has.
        clock_hz: Its highest clock; None where that can't be asked, for a clock that no GPU of today reaches.
    """
    per_clock = INT8_PER_SM_CLOCK.get(capability, UNKNOWN_INT8_PER_SM_CLOCK)
    clock = clock_hz or UNKNOWN_CLOCK_HZ
    int8 = float(per_clock) * multiprocessors * clock
    known = "" if capability in INT8_PER_SM_CLOCK else " (assumed: unknown compute capability)"
    origin = f"{multiprocessors} multiprocessors x {clock / 1e9:.3f} GHz x {per_clock} int8 operations{known}"
    return Peak(fp16=int8 * 2 / 3, fp8=int8, origin=origin)


def attention_operations(batch: int, heads: int, queries: int, keys: int, head_dim: int) -> float:
    """Operations of attention without a mask: two products, a multiplication and an addition each."""
    return 4.0 * batch * heads * queries * keys * head_dim
