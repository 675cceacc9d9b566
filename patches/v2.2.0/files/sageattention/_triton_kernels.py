# SPDX-License-Identifier: Apache-2.0
"""Attention by the Triton kernels: for masks, for GPUs where they are the faster ones, and for packed sequences."""

import functools
import importlib.util
import math
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from . import _fused
from ._arguments import Call, Packed, Sizes

_LOG2_E = 1.4426950408889634
_PER_BLOCK = 1  # granularity of int8 scales, as the kernels number them
_V_FLOAT16 = 1
# A sum of 64 products of weights up to 1 with these fits into float16, which the Triton kernels add in.
_SUMMED_IN_FLOAT16 = 512.0
_LARGEST_LOGIT = 262144.0  # as in prepare.cu


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed, and the C compiler that it calls at the first launch."""
    compilers = (os.environ.get("CC") or "", "gcc", "clang", "cc")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


has_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in core.py


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a call's device current meanwhile, since Triton launches on the current one."""

    @functools.wraps(function)
    def guarded(call: Call, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not call.q.is_cuda:
            return function(call, *arguments)
        with torch.cuda.device(call.q.device):
            return function(call, *arguments)

    return guarded


@_on_its_device
def attention(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output, with the head dim padded, and logsumexp."""
    q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, _, smooth_k, _ = call
    if tensor_layout == "NHD":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    sizes = Sizes(q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3))
    try:
        from .triton.attn_qk_int8_per_block import forward as attn_false
        from .triton.attn_qk_int8_per_block_causal import forward as attn_true
    except ImportError as error:
        why = "attn_mask is given" if attn_mask is not None else "this function is compiled by it"
        raise ImportError(f"Triton is needed, since {why}: pip install triton ({error})") from error
    attend = attn_true if is_causal else attn_false
    given = q.dtype
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool and smooth_k:
            k = _without_hidden(k, attn_mask)
        attn_mask = attn_mask.expand(sizes.batch, sizes.q_heads, sizes.q_tokens, sizes.kv_tokens)
    q_int8, q_scale, k_int8, k_scale, v, v_scale, _, correction = _fused.prepare(
        q, k, v, _PER_BLOCK, 128, 128, 64, _V_FLOAT16, _SUMMED_IN_FLOAT16,
        int(smooth_k), 0, sm_scale, 1, int(return_lse),
    )  # fmt: skip
    if tensor_layout == "NHD":
        q_int8, k_int8, v = q_int8.transpose(1, 2), k_int8.transpose(1, 2), v.transpose(1, 2)
    extra = {} if is_causal else {"attn_mask": attn_mask}
    output, lse = attend(
        q_int8, k_int8, v, q_scale, k_scale, tensor_layout=tensor_layout, output_dtype=given, return_lse=return_lse,
        **extra,
    )  # fmt: skip
    _fused.scale_output(output, v_scale, 0 if tensor_layout == "NHD" else 1)
    if not return_lse:
        return output, lse
    lse = lse / _LOG2_E
    return output, torch.add(correction, lse) if correction.numel() else lse


@_on_its_device
def varlen(call: Call, packed: Packed, sizes: Sizes) -> torch.Tensor:
    """Return the output of packed sequences; what is in none of them has no influence, and 0 in the output."""
    q, k, v, _, is_causal, sm_scale, *_ = call
    try:
        from .triton.attn_qk_int8_block_varlen import forward as attn_false
        from .triton.attn_qk_int8_per_block_causal_varlen import forward as attn_true
        from .triton.quant_per_block_varlen import per_block_int8
    except ImportError as error:
        raise ImportError(f"Triton is needed for packed sequences: pip install triton ({error})") from error
    attend = attn_true if is_causal else attn_false
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k = packed
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
    outside_q = (torch.arange(sizes.q_tokens, device=q.device) >= cu_seqlens_q[-1])[:, None, None]
    outside_k = (torch.arange(sizes.kv_tokens, device=q.device) >= cu_seqlens_k[-1])[:, None, None]
    k, v = k.masked_fill(outside_k, 0), v.masked_fill(outside_k, 0)
    mean = (k.float() / cu_seqlens_k[-1]).sum(dim=0, keepdim=True).nan_to_num()
    given = q.dtype
    v = torch.nn.functional.pad(v, (0, sizes.padded - sizes.head_dim))
    v, v_scale = _fitting_float16(v)
    q_int8, q_scale, k_int8, k_scale, q_starts, k_starts = per_block_int8(
        _rotated(q, None, sizes), _rotated(k, mean, sizes), cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        sm_scale=sm_scale,
    )  # fmt: skip
    k_scale = _limited(k_scale, q_scale, sizes)
    output = attend(
        q_int8, k_int8, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, q_scale, k_scale, q_starts, k_starts,
        output_dtype=given,
    )  # fmt: skip
    most = torch.finfo(given).max
    output.mul_(v_scale.repeat_interleave(sizes.q_heads // sizes.kv_heads, dim=1)).clamp_(-most, most)
    return output.masked_fill_(outside_q, 0)[..., : q.size(-1)].contiguous()


def _without_hidden(k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Put the mean of the keys that a query sees in the place of those that none does: they count in no scale then."""
    visible = mask.any(dim=-2, keepdim=True).transpose(-2, -1) if mask.dim() > 1 else mask.unsqueeze(-1)
    while visible.dim() < 4:
        visible = visible.unsqueeze(0)
    visible = visible.expand(-1, -1, k.size(2), 1)
    if visible.size(1) not in (1, k.size(1)):  # one of several heads of Q that share one of K
        visible = visible.unflatten(1, (k.size(1), -1)).any(dim=2)
    kept = k.masked_fill(~visible, 0)
    share = 1 / visible.sum(dim=2, keepdim=True, dtype=torch.float32).clamp(min=1)
    mean = (kept.float() * share).sum(dim=2, keepdim=True)
    return torch.where(visible, k, mean.to(k.dtype))


def _matrix(size: int, device: torch.device) -> torch.Tensor:
    """Return a Hadamard matrix with fixed signs, divided by its size.

    Element (i, j) has the parity of i & j; the signs of rows are a quadratic form of i, whose spectrum is flat: no
    pattern of channels that is a column of the plain matrix becomes one outlier.
    """
    index = torch.arange(size, device=device)
    bits = (index[:, None] & index) ^ (index & (index >> 3) & 7)[:, None]
    for shift in (4, 2, 1):
        bits = bits ^ (bits >> shift)
    return (1.0 - 2.0 * (bits & 1)) / size


def _rotated(x: torch.Tensor, mean: torch.Tensor | None, sizes: Sizes) -> torch.Tensor:
    """Return rows less their mean, times the matrix, in float32: outliers of a channel are spread over all.

    They are smaller by the root of the padded head dim, which the scales of K make up for, so that no sum overflows.
    """
    matrix = _matrix(sizes.padded, x.device)[: sizes.head_dim].contiguous()
    with torch.autocast("cuda", enabled=False):
        turned = torch.matmul(x.float(), matrix)
        return turned if mean is None else turned.sub_(torch.matmul(mean, matrix))


def _limited(k_scale: torch.Tensor, q_scale: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Return scales of K as they are without `_rotated`, and no larger than the kernels can take."""
    largest = _LARGEST_LOGIT / (127 * 127 * sizes.padded) / q_scale.amax()
    return torch.minimum(k_scale * sizes.padded, largest)


def _fitting_float16(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return V as float16 and contiguous, and the powers of two that channels were divided by where it is too small."""
    largest = v.abs().amax(dim=0, keepdim=True).float().clamp(min=1e-37)
    exponent = torch.log2(largest).floor() + 1
    too_small, too_large = largest < 2.0**-8, (exponent - math.log2(_SUMMED_IN_FLOAT16)).clamp(min=0)
    scale = torch.exp2(torch.where(too_small, exponent, too_large))
    return (v * (1 / scale)).to(torch.float16).contiguous(), scale
