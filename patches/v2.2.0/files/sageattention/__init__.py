# SPDX-License-Identifier: Apache-2.0
"""Attention with int8 and float8 arithmetic on NVIDIA GPUs.

`sageattn` computes one call, `patched` has a whole model use it, and `python -m sageattention` says what this machine
does with it.
"""

from typing import Any

from ._sdpa import patched, scaled_dot_product_attention
from .core import (
    explain,
    sageattn,
    sageattn_qk_int8_pv_fp8_cuda,
    sageattn_qk_int8_pv_fp8_cuda_sm90,
    sageattn_qk_int8_pv_fp16_cuda,
    sageattn_qk_int8_pv_fp16_triton,
    sageattn_varlen,
)

__all__ = [
    "explain",
    "patched",
    "sageattn",
    "sageattn_qk_int8_pv_fp8_cuda",
    "sageattn_qk_int8_pv_fp8_cuda_sm90",
    "sageattn_qk_int8_pv_fp16_cuda",
    "sageattn_qk_int8_pv_fp16_triton",
    "sageattn_varlen",
    "scaled_dot_product_attention",
]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata  # takes milliseconds to import, and few ask

    try:
        return metadata.version("sageattention")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "2.2.0"
