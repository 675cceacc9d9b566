"""What `kernel_speed.py` compares: every kernel function and shape, as rows.

Standard library only: the side that asks has no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from builder.smoketest.attention.kernels import MODULE_FUNCTIONS, Capability, kernels_for

FUNCTION, ATTENTION, QUANTISATION = "function", "attention", "quantisation"
SDPA = "sdpa"
TOKENS = (1024, 4096, 8192, 32768)
HEAD_DIMS = (64, 128)
GRANULARITIES = ("per_thread", "per_warp")
HEADS = 32
MOST_HEAD_TOKENS = 262_144
"""Heads times tokens: from 8,192 tokens on there are fewer heads, so that a row stays in the milliseconds."""

LOWEST = {"_fused": (8, 0), "_qattn_sm80": (8, 0), "_qattn_sm89": (8, 9), "_qattn_sm90": (9, 0)}

QUANTISATIONS = (
    "quant_per_block_int8_cuda/128-scaled",
    "quant_per_block_int8_cuda/64",
    "quant_per_block_int8_fuse_sub_mean_cuda/64",
    "quant_per_block_int8_fuse_sub_mean_cuda/128",
    "quant_per_warp_int8_cuda/128-32",
    "quant_per_warp_int8_cuda/64-16",
    "sub_mean_cuda",
    "transpose_pad_permute_cuda",
    "scale_fuse_quant_cuda",
    "mean_scale_fuse_quant_cuda",
)
"""The functions of `_fused`, with the block sizes that `core.py` calls them with."""


@dataclass(frozen=True)
class Row:
    """One call that both copies make.

    Attributes:
        kind: `function` (what users call), `attention` or `quantisation` (a compiled module's function alone,
            on inputs that are ready).
        name: The kernel's key, `sdpa` for torch's own attention, or `module.function`, with a variant after a
            slash.
        lengths: Query tokens and key tokens.
        batch: More than 1 for functions only.
    """

    kind: str
    name: str
    lengths: tuple[int, int]
    head_dim: int
    heads: int
    causal: bool = False
    dtype: str = "fp16"
    layout: str = "HND"
    lse: bool = False
    batch: int = 1

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Row:
        """Return a row from its JSON form."""
        return cls(**{**values, "lengths": tuple(values["lengths"])})

    @property
    def values(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What rows with the same inputs have in common."""
        return self.batch, self.lengths, self.head_dim, self.heads, self.dtype, self.layout

    @property
    def case(self) -> str:
        """Return the inputs in words."""
        queries, keys = self.lengths
        words = [
            f"{queries}" if queries == keys else f"{queries}x{keys}",
            f"d{self.head_dim}",
            f"h{self.heads}",
        ]
        words += [f"b{self.batch}"] if self.batch > 1 else []
        words += [self.dtype] if self.dtype != "fp16" else []
        words += [self.layout] if self.layout != "HND" else []
        words += ["causal"] if self.causal else []
        words += ["lse"] if self.lse else []
        return " ".join(words)


def functions(capability: Capability, patterns: tuple[str, ...] = ()) -> list[str]:
    """Return the keys of the public functions that a GPU can run, without those for packed sequences."""
    return [
        kernel.key
        for kernel in kernels_for(capability, patterns)
        if not kernel.varlen and not kernel.why_not(capability)
    ]


def attentions(capability: Capability) -> list[str]:
    """Return the compiled attention functions that a GPU can run, in both granularities."""
    return [
        f"{module}.{function}/{granularity}"
        for module, names in MODULE_FUNCTIONS.items()
        if module != "_fused"
        and capability >= LOWEST[module]
        and (module != "_qattn_sm90" or capability[0] == 9)
        for function in names
        for granularity in GRANULARITIES
    ]


def speed_rows(
    capability: Capability,
    tokens: Sequence[int] = TOKENS,
    head_dims: Sequence[int] = HEAD_DIMS,
    kinds: Iterable[str] = (FUNCTION, ATTENTION, QUANTISATION),
    patterns: tuple[str, ...] = (),
) -> list[Row]:
    """Return the rows that are timed; those of one shape follow each other.

    Args:
        patterns: Keys of the public functions; none means all.
    """
    rows = []
    for length, head_dim in product(tokens, head_dims):
        heads = max(1, min(HEADS, MOST_HEAD_TOKENS // length))
        for kind, names, masks in (
            (FUNCTION, functions(capability, patterns), (False, True)),
            (ATTENTION, attentions(capability), (False, True)),
            (QUANTISATION, [f"_fused.{name}" for name in QUANTISATIONS], (False,)),
        ):
            rows += [
                Row(kind, name, (length, length), head_dim, heads, causal)
                for name, causal in product(names, masks)
                if kind in kinds
            ]
    return rows


def equality_rows(
    capability: Capability,
    kinds: Iterable[str] = (FUNCTION, ATTENTION, QUANTISATION),
    patterns: tuple[str, ...] = (),
) -> list[Row]:
    """Return the rows whose results are compared bit by bit: even and odd lengths, both layouts and types."""
    rows: list[Row] = []
    heads = 8
    if FUNCTION in kinds:
        cases: list[dict[str, Any]] = [
            {"lengths": (1024, 1024), "head_dim": 128, "lse": True},
            {"lengths": (1024, 1024), "head_dim": 64, "causal": True},
            {"lengths": (4096, 4096), "head_dim": 128, "dtype": "bf16", "layout": "NHD", "causal": True},
            {"lengths": (4096, 4096), "head_dim": 64, "dtype": "bf16", "lse": True},
            {"lengths": (2048, 1024), "head_dim": 96, "layout": "NHD"},
            {"lengths": (333, 777), "head_dim": 128, "layout": "NHD", "lse": True},
            {"lengths": (333, 777), "head_dim": 64, "dtype": "bf16"},
            {"lengths": (777, 777), "head_dim": 128, "causal": True},
            {"lengths": (17, 17), "head_dim": 96},
            {"lengths": (1, 9), "head_dim": 64},
        ]
        for case in cases:
            rows += [Row(FUNCTION, name, heads=heads, **case) for name in functions(capability, patterns)]
    if ATTENTION in kinds:
        for (lengths, layout, dtype), head_dim, causal in product(
            (((1024, 1024), "HND", "fp16"), ((777, 777), "NHD", "bf16"), ((333, 1000), "HND", "fp16")),
            HEAD_DIMS,
            (False, True),
        ):
            if causal and lengths[0] != lengths[1]:
                continue
            rows += [
                Row(ATTENTION, name, lengths, head_dim, heads, causal, dtype, layout, lse=True)
                for name in attentions(capability)
            ]
    if QUANTISATION in kinds:
        for length, head_dim, dtype, layout in product(
            (1024, 777), HEAD_DIMS, ("fp16", "bf16"), ("HND", "NHD")
        ):
            rows += [
                Row(
                    QUANTISATION,
                    f"_fused.{name}",
                    (length, length),
                    head_dim,
                    heads,
                    dtype=dtype,
                    layout=layout,
                )
                for name in QUANTISATIONS
            ]
    return rows
