"""SageAttention 2.2's kernel functions, the arguments that choose a kernel, and which GPU runs it."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import Any

Capability = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """One way to call SageAttention.

    Attributes:
        key: Name in rows and for ``--kernels``.
        function: Name of the function in ``sageattention``.
        arguments: Keyword arguments that choose the kernel.
        family: ``fp16`` or ``fp8``: the number format of the product of P and V, which sets the error.
        lowest: Lowest compute capability that runs it.
        only: The one major version that runs it, if there is only one.
        module: The compiled module that contains the kernel; empty for Triton.
        primary: Whether it has the whole set of cases; the others have a share of it.
    """

    key: str
    function: str
    family: str
    arguments: tuple[tuple[str, Any], ...] = ()
    lowest: Capability = (8, 0)
    only: int | None = None
    module: str = ""
    primary: bool = False

    @property
    def varlen(self) -> bool:
        """Whether it takes packed sequences (``cu_seqlens``) in place of a batch."""
        return self.function == "sageattn_varlen"

    @property
    def total(self) -> bool:
        """Whether it takes what any kernel or torch's own function takes, and names no kernel."""
        return self.function in ("sageattn", "sageattn_varlen")

    @property
    def smooth_v(self) -> bool:
        """Whether it subtracts V's mean first."""
        return bool(dict(self.arguments).get("smooth_v"))

    @property
    def quantises_in_cuda(self) -> bool:
        """Whether its arguments ask for the compiled module's quantisation."""
        arguments = dict(self.arguments)
        return "per_warp" in arguments.values() or arguments.get("quantization_backend") == "cuda"

    def why_not(self, capability: Capability) -> str:
        """Return why a GPU can't run the kernel; empty if it can."""
        have = f"{capability[0]}.{capability[1]}"
        if self.only is not None and capability[0] != self.only:
            return f"needs compute capability {self.only}.x, this GPU has {have}"
        if capability < self.lowest:
            return f"needs compute capability {self.lowest[0]}.{self.lowest[1]}, this GPU has {have}"
        return ""


def _compiled(
    prefix: str,
    function: str,
    module: str,
    accumulators: tuple[str, ...],
    lowest: Capability,
    *,
    only: int | None = None,
    smooth_v: str = "",
) -> tuple[Kernel, ...]:
    """Return the kernels of a compiled module; the first is the primary one.

    Args:
        prefix: Of the keys, as in ``cuda-fp8/fp32/per_thread``.
        smooth_v: The accumulator for which V's mean can be subtracted.
    """
    choices = [
        (one, granularity, False) for one in accumulators for granularity in ("per_thread", "per_warp")
    ]
    choices += [(smooth_v, "per_thread", True)] if smooth_v else []
    return tuple(
        Kernel(
            key=f"{prefix}/{accumulator}/{'smooth_v' if smooth else granularity}",
            function=function,
            family=prefix.split("-")[1],
            arguments=(
                ("pv_accum_dtype", accumulator),
                ("qk_quant_gran", granularity),
                *([("smooth_v", True)] if smooth else []),
            ),
            lowest=lowest,
            only=only,
            module=module,
            primary=number == 0,
        )
        for number, (accumulator, granularity, smooth) in enumerate(choices)
    )


_TRITON = tuple(
    Kernel(
        key=f"triton-fp16/{backend}-quant",
        function="sageattn_qk_int8_pv_fp16_triton",
        family="fp16",
        arguments=(("quantization_backend", backend),),
        lowest=(7, 5),
        primary=backend == "triton",
    )
    for backend in ("triton", "cuda")
)

SAGEATTN = Kernel(key="sageattn", function="sageattn", family="", lowest=(7, 5), primary=True)
"""The function that chooses by GPU; its family is set by `kernels_for`."""

VARLEN = Kernel(key="varlen", function="sageattn_varlen", family="fp16", lowest=(7, 5), primary=True)

ALL = (
    SAGEATTN,
    *_TRITON,
    *_compiled(
        "cuda-fp16",
        "sageattn_qk_int8_pv_fp16_cuda",
        "_qattn_sm80",
        ("fp32", "fp16+fp32", "fp16"),
        (8, 0),
        smooth_v="fp16",
    ),
    *_compiled(
        "cuda-fp8",
        "sageattn_qk_int8_pv_fp8_cuda",
        "_qattn_sm89",
        ("fp32+fp16", "fp32+fp32", "fp32"),
        (8, 9),
        smooth_v="fp32",
    ),
    *_compiled(
        "sm90-fp8", "sageattn_qk_int8_pv_fp8_cuda_sm90", "_qattn_sm90", ("fp32+fp32",), (9, 0), only=9
    ),
    VARLEN,
)
"""Every kernel; their order is that of the rows."""

MODULE_FUNCTIONS = {
    "_fused": (
        "quant_per_block_int8_cuda",
        "quant_per_block_int8_fuse_sub_mean_cuda",
        "quant_per_warp_int8_cuda",
        "sub_mean_cuda",
        "transpose_pad_permute_cuda",
        "scale_fuse_quant_cuda",
        "mean_scale_fuse_quant_cuda",
    ),
    "_qattn_sm80": (
        "qk_int8_sv_f16_accum_f32_attn",
        "qk_int8_sv_f16_accum_f16_attn",
        "qk_int8_sv_f16_accum_f16_fuse_v_mean_attn",
        "qk_int8_sv_f16_accum_f16_attn_inst_buf",
    ),
    "_qattn_sm89": (
        "qk_int8_sv_f8_accum_f32_attn",
        "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn",
        "qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn",
        "qk_int8_sv_f8_accum_f32_attn_inst_buf",
        "qk_int8_sv_f8_accum_f16_attn_inst_buf",
        "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
        "qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf",
    ),
    "_qattn_sm90": (
        "qk_int8_sv_f8_accum_f32_attn_inst_buf",
        "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
    ),
}
"""The functions of each compiled module of 2.2.0."""


def default_family(capability: Capability) -> str:
    """Return the family of the kernel that ``sageattn`` chooses on a GPU."""
    return "fp8" if capability >= (8, 9) else "fp16"


def kernels_for(capability: Capability, patterns: tuple[str, ...] = ()) -> tuple[Kernel, ...]:
    """Return the kernels of a run, with the family of those that choose one set by the GPU.

    Args:
        patterns: Keys, with ``*``, or the part before the first slash; none means all.
    """
    chosen = [kernel for kernel in ALL if not patterns or any(_matches(kernel.key, one) for one in patterns)]
    family = default_family(capability)
    return tuple(replace(kernel, family=family) if kernel.total else kernel for kernel in chosen)


def unmatched(patterns: tuple[str, ...]) -> list[str]:
    """Return the patterns that match no kernel."""
    return [one for one in patterns if not any(_matches(kernel.key, one) for kernel in ALL)]


def _matches(key: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(key, pattern) or key.split("/", maxsplit=1)[0] == pattern
