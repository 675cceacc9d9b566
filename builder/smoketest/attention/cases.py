"""The cases of the accuracy rows: a covering set, not the full product.

In the default set, every possible pair of values of two factors occurs for each primary kernel (a test checks
this). The other kernels divide the same set among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Any

Lengths = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One call's inputs.

    Attributes:
        groups: Query heads for each key head (grouped-query attention when above 1).
        lengths: Query tokens and key tokens.
        memory: ``packed`` (contiguous in the layout that is passed), ``transposed`` (contiguous in the other
            layout), ``sliced`` (each row is part of a wider one, as after a fused projection).
        k_mean: Each channel of K has a large mean, which K smoothing must remove before int8.
        zero_channel: One channel of V is all zeros.
    """

    lengths: Lengths
    head_dim: int = 128
    dtype: str = "fp16"
    layout: str = "HND"
    causal: bool = False
    groups: int = 1
    memory: str = "packed"
    k_mean: bool = False
    return_lse: bool = False
    batch: int = 1
    zero_channel: bool = False

    @property
    def heads(self) -> int:
        """Query heads: more where the sequences are short, so that the errors average."""
        return 16 if max(self.lengths) < 64 else 8

    @property
    def name(self) -> str:
        """A short text, different for each case."""
        words = [f"{self.lengths[0]}x{self.lengths[1]}", f"d{self.head_dim}", self.dtype, self.layout]
        words += [f"b{self.batch}"] if self.batch > 1 else []
        words += [f"gqa{self.groups}"] if self.groups > 1 else []
        words += ["causal"] if self.causal else []
        words += ["lse"] if self.return_lse else []
        words += [self.memory] if self.memory != "packed" else []
        words += ["kmean"] if self.k_mean else []
        words += ["zero-channel"] if self.zero_channel else []
        return " ".join(words)


FACTORS: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 9), (17, 17), (333, 777), (777, 333), (2048, 2048), (4096, 4096), (1, 1), (9, 9)),
    "head_dim": (128, 64, 96),
    "dtype": ("fp16", "bf16"),
    "layout": ("HND", "NHD"),
    "causal": (False, True),
    "groups": (1, 4),
    "memory": ("packed", "sliced", "transposed"),
    "k_mean": (False, True),
    "return_lse": (True, False),
    "batch": (1, 2),
}
"""What varies, and the values that it takes."""


def possible(values: dict[str, Any]) -> bool:
    """Return whether values of some or all factors can occur together."""
    lengths = values.get("lengths")
    return not (values.get("causal") and lengths is not None and lengths[0] != lengths[1])


@cache
def covering_set() -> tuple[Case, ...]:
    """Return cases in which every possible pair of values occurs; always the same ones, chosen greedily.

    The lengths and the head dimension have the most values between them, so the cases start from
    their product; the other factors are filled in so that each case adds as many new pairs as possible.
    """
    names = list(FACTORS)
    missing = {
        pair
        for first, second in combinations(names, 2)
        for pair in product(
            ((first, value) for value in FACTORS[first]), ((second, v) for v in FACTORS[second])
        )
        if possible(dict(pair))
    }
    cases: list[Case] = []
    frame = list(product(FACTORS["lengths"], FACTORS["head_dim"]))
    turn = 0
    while missing:
        lengths, head_dim = frame[turn % len(frame)]
        best = _fill({"lengths": lengths, "head_dim": head_dim}, names, missing, turn)
        new = _pairs(best) & missing
        turn += 1
        if new or turn <= len(frame):
            cases.append(Case(**best))
            missing -= new
    return tuple(cases)


def _fill(
    chosen: dict[str, Any], names: list[str], missing: set[tuple[Any, ...]], turn: int
) -> dict[str, Any]:
    for name in names:
        if name in chosen:
            continue
        offset = turn % len(FACTORS[name])
        candidates = FACTORS[name][offset:] + FACTORS[name][:offset]
        allowed = [value for value in candidates if possible({**chosen, name: value})]
        chosen[name] = max(allowed, key=lambda value: len(_pairs({**chosen, name: value}) & missing))
    return {name: chosen[name] for name in names}


def _pairs(values: dict[str, Any]) -> set[tuple[Any, ...]]:
    order = [name for name in FACTORS if name in values]
    return {((one, values[one]), (two, values[two])) for one, two in combinations(order, 2)}


QUICK = (
    Case((2048, 2048)),
    Case((17, 17), head_dim=96, dtype="bf16", layout="NHD", return_lse=True, memory="sliced"),
    Case((333, 777), head_dim=64, groups=4, return_lse=True, k_mean=True, batch=2),
    Case((1, 9), head_dim=64),
    Case((4096, 4096), dtype="bf16", causal=True, layout="NHD", memory="transposed"),
)
"""The cases of ``--quick`` for each primary kernel."""

QUICK_SHARE = (Case((2048, 2048)), Case((333, 777), head_dim=96, dtype="bf16", layout="NHD", return_lse=True))
"""Those for each of the others."""

SINGLE_TOKEN = Case((1, 1))
"""For kernels that subtract V's mean: nothing is left of a single token, and the scale is zero."""

QUICK_TRITON = (QUICK[0], QUICK[2])
"""Those for the Triton kernel."""

ZERO_CHANNEL = Case((333, 777), zero_channel=True)
"""A channel of V without any value: its scale is zero, its output must be zero and not NaN."""


def cases_for(mode: str, *, share: int | None, triton: bool = False) -> tuple[Case, ...]:
    """Return the cases of one kernel.

    Args:
        mode: ``quick``, ``default`` or ``long``.
        share: None for a primary kernel, which has the whole set; the number of another, which has a third.
        triton: Triton compiles the kernel again for most cases, so ``--quick`` has fewer.
    """
    primary = share is None
    if mode == "quick" and triton:
        return QUICK_TRITON if primary else QUICK_SHARE[:1]
    if mode == "quick":
        return QUICK if primary else QUICK_SHARE
    whole = covering_set()
    chosen = tuple(case for i, case in enumerate(whole) if share is None or i % 3 == share % 3)
    anchors = tuple(case for case in QUICK if case not in chosen)
    return chosen + (anchors if primary else anchors[:2]) + (ZERO_CHANNEL,)


@dataclass(frozen=True)
class VarlenCase:
    """Packed sequences of different lengths: a pair of query and key tokens for each."""

    sequences: tuple[Lengths, ...]
    head_dim: int = 128
    dtype: str = "fp16"
    causal: bool = False
    groups: int = 1
    k_mean: bool = False
    heads: int = 8

    @property
    def name(self) -> str:
        """A short text, different for each case."""
        words = ["+".join(str(q) if q == k else f"{q}x{k}" for q, k in self.sequences)]
        words += [f"d{self.head_dim}", self.dtype]
        words += [f"gqa{self.groups}"] if self.groups > 1 else []
        words += ["causal"] if self.causal else []
        words += ["kmean"] if self.k_mean else []
        return " ".join(words)


VARLEN_QUICK = (VarlenCase(((17, 17), (333, 333), (1, 1), (640, 640))),)
VARLEN_DEFAULT = (
    *VARLEN_QUICK,
    VarlenCase(((9, 17), (1024, 512), (1, 9), (333, 777)), head_dim=64, dtype="bf16", groups=4),
    VarlenCase(((17, 17), (640, 640), (1, 1), (333, 333)), head_dim=96, causal=True, k_mean=True),
    VarlenCase(((2048, 2048), (100, 100)), dtype="bf16", causal=True, groups=4),
    VarlenCase(((1, 4096), (4096, 1)), head_dim=64),
)


def varlen_cases_for(mode: str) -> tuple[VarlenCase, ...]:
    """Return the cases of ``sageattn_varlen``."""
    return VARLEN_QUICK if mode == "quick" else VARLEN_DEFAULT


@dataclass(frozen=True)
class RangeCase:
    """A call with large or small values: factors of Q, K and V, of one channel or token, and what is added.

    What is not `compared` with the right result has to be finite and within the range of V: the logits are so
    large that rounding to int8 decides which key wins, or V so large that the fp8 kernels give less of it.
    """

    name: str
    dtype: str = "fp16"
    v: float = 1.0
    v_channel: float = 1.0
    v_mean: float = 0.0
    q: float = 1.0
    k: float = 1.0
    k_channel: float = 0.0
    k_token: float = 1.0
    compared: bool = True


RANGE_QUICK = (
    RangeCase("V of 1e4 x normal, fp16", v=1e4),
    RangeCase("V of 5e37 x normal, bf16", "bf16", v=5e37),
    RangeCase("one channel of V of 1e30 x normal, bf16", "bf16", v_channel=1e30),
    RangeCase("60,000 added to one channel of K", k_channel=6e4),
    RangeCase("Q and K of 1e4 x normal", q=1e4, k=1e4, compared=False),
)
RANGE_DEFAULT = (
    *RANGE_QUICK,
    RangeCase("V of 6e4 x normal, bf16", "bf16", v=6e4),
    RangeCase("V of 1e-8 x normal, bf16", "bf16", v=1e-8),
    RangeCase("one channel of V of 3e4 x normal, fp16", v_channel=3e4),
    RangeCase("V with a mean of 20", v_mean=20.0),
    RangeCase("V all zero", v=0.0),
    RangeCase("one token of K of 1e4 x normal", k_token=1e4, compared=False),
    RangeCase("V at both ends of fp16", v=1e6, compared=False),
    RangeCase("V at both ends of bf16", "bf16", v=1e40, compared=False),
    RangeCase("V at one end of fp16", v_mean=1e6, compared=False),
    RangeCase("Q and K at both ends of fp16", q=1e6, k=1e6, compared=False),
    RangeCase("Q and K at both ends of bf16", "bf16", q=1e40, k=1e40, compared=False),
)


LONG_CASES = {
    "200,000 tokens": (4, 200_000, "HND"),
    "64 heads x 270,000 tokens x 128, HND": (64, 270_000, "HND"),
    "64 heads x 270,000 tokens x 128, NHD": (64, 270_000, "NHD"),
}
"""Name to heads, tokens and layout, for sequences on which 32-bit indices overflow."""
