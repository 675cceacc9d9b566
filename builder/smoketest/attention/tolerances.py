"""How much a result may differ from the right one, and why.

Q and K are rounded to int8 in blocks, so each score carries an error of about 0.0135 (two operands, each with
a step of four standard deviations / 127); the output's relative error is about the same, whatever the length.
Rounding P and V to fp8 (three bits of mantissa: 0.026 each) brings it to about 0.037. Output in bf16 adds
0.0011 in quadrature, which does not matter; a short sequence has smaller maxima, so finer steps. So each
family has one limit, for all lengths and both types.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.reference import Difference


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a `Difference`.

    Attributes:
        cosine: Lowest cosine similarity.
        relative_error: Highest relative error.
        worst_row: Highest relative error of one row; the errors of rows vary around the mean, most where
            a row sees few keys.
    """

    cosine: float
    relative_error: float
    worst_row: float

    def broken(self, seen: Difference) -> list[str]:
        """Return the bounds that are broken, in words; NaN breaks every one."""
        if seen.not_finite:
            return [f"{seen.not_finite} elements are NaN or infinite"]
        problems = []
        if not seen.cosine >= self.cosine:
            problems.append(f"cosine {seen.cosine:.6f} < {self.cosine}")
        if not seen.relative_error <= self.relative_error:
            problems.append(f"relative error {seen.relative_error:.4f} > {self.relative_error}")
        if not seen.worst_row <= self.worst_row:
            problems.append(f"worst row's relative error {seen.worst_row:.3f} > {self.worst_row}")
        return problems

    def as_text(self) -> dict[str, str]:
        """Return the bounds for the report."""
        return {
            "not_finite": "== 0",
            "cosine": f">= {self.cosine}",
            "relative_error": f"<= {self.relative_error}",
            "worst_row": f"<= {self.worst_row}",
        }


FAMILIES = {
    "fp16": Tolerance(cosine=0.9999, relative_error=0.02, worst_row=0.08),
    "fp8": Tolerance(cosine=0.999, relative_error=0.05, worst_row=0.15),
}
"""Limits by the number format of the product of P and V."""

COARSE_MEAN = Tolerance(cosine=0.9995, relative_error=0.03, worst_row=0.12)
"""For bf16 inputs to the kernel that subtracts V's mean before fp16: the difference is rounded to bf16, and
all values of a channel that share an exponent are rounded by the same amount. That does not average out over
keys: 0.009 at 777 tokens, 0.021 at 4,096, on top of the family's own."""


def bounds(kernel: Kernel, dtype: str) -> Tolerance:
    """Return the limits of a kernel's output for inputs of a type (``fp16`` or ``bf16``)."""
    if kernel.family == "fp16" and kernel.smooth_v and dtype == "bf16":
        return COARSE_MEAN
    return FAMILIES[kernel.family]


LSE_RMS = 0.02
"""Root mean square of the error of the logsumexp: where one key dominates it is that score's own error."""
LSE_MAX = 0.1
"""Highest error of one logsumexp; a base-2 logarithm taken for a natural one differs by more than 1."""
