# SPDX-License-Identifier: Apache-2.0
"""torch's own attention, for what the kernels do not compute, or not faster."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import _fused
from ._arguments import Call

# What torch.nn.functional.scaled_dot_product_attention is: taken here, where nobody puts ours in its place.
sdpa = torch._C._nn.scaled_dot_product_attention
_SMALLEST_SCALE = 2.0**-126  # of float32, in which they multiply with it
_PER_CHUNK = 2**26  # elements of QK^T that are held at a time for the logsumexp

# Calls that torch's function computes faster, looked up before anything else: some models make hundreds of short calls,
# and wait for the host. (What it takes of other types than the kernels', it computes anyway.)
_faster: set[tuple[Any, ...]] = set()
_MOST = 4096


def derivative_of(*tensors: Tensor | None) -> str:
    """Return which derivative is asked for: "gradient", "tangent" or ""."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return "gradient"
    if forward_ad._current_level >= 0 and any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    ):
        return "tangent"
    return ""


def look_up(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[tuple[Any, ...], bool]:
    """Return what decides a call without a mask (nothing where more than that does), and whether it is remembered."""
    if is_compiling() or q.is_nested:
        return (), False
    try:
        signature = (q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), q.device, options)
        offsets = q.storage_offset() | k.storage_offset() | v.storage_offset()
        return signature, signature in _faster and offsets % 8 == 0
    except (RuntimeError, TypeError):  # other kinds of tensors have no sizes, and symbols no hash
        return (), False


def remember(signature: tuple[Any, ...], call: Call) -> None:
    """Remember a call, if torch's function takes its tensors as they are."""
    if not signature or len(_faster) >= _MOST or any(isinstance(option, Tensor) for option in signature[-1]):
        return
    scale = call.sm_scale
    if scale is not None and scale >= _SMALLEST_SCALE and all(aligned(x) is x for x in call[:3]):
        _faster.add(signature)


def attention(call: Call, derivative: str = "") -> Any:
    """Compute with torch's function; the output is contiguous without a mask. `derivative`: see `derivative_of`."""
    q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, dropout_p, _, _ = call
    nested = q.is_nested or k.is_nested or v.is_nested
    if not nested and q.numel() == 0:
        empty = q.new_empty((*q.shape[:-1], v.size(-1)))
        lse = q.new_empty(
            (q if tensor_layout == "HND" else q.transpose(-3, -2)).shape[:-1], dtype=torch.float32
        )
        return (empty, lse) if return_lse else empty
    if tensor_layout == "NHD":
        q, k, v = q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)
    # Not all of torch's kernels look.
    if not nested and (q.size(-1) != k.size(-1) or k.shape[-3:-1] != v.shape[-3:-1]):
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}"
        raise ValueError(f"v, or k: the shapes, heads first, are {shapes}, which do not fit together.")
    if return_lse and hasattr(attn_mask, "_materialize"):  # torch's own kinds of bias, which hold no numbers
        attn_mask = attn_mask._materialize(q.device)
    if type(attn_mask) in (Tensor, torch.nn.Parameter):
        if attn_mask.dim() < 2:
            attn_mask = attn_mask.expand(1, k.size(-2))
        if is_causal:  # which torch's function does not combine
            causal = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool, device=q.device).tril()
            is_bool, is_causal = attn_mask.dtype == torch.bool, False
            attn_mask = attn_mask & causal if is_bool else attn_mask.masked_fill(~causal, float("-inf"))
    # A branch, since torch takes no symbol for it.
    shared = True if q.dim() > 2 and not nested and q.size(-3) != k.size(-3) else False  # noqa: SIM210
    rest = (attn_mask, dropout_p, is_causal, sm_scale, shared)
    if derivative == "tangent":  # only this implementation has forward-mode derivatives
        output, _ = torch.ops.aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, dropout_p, is_causal, scale=sm_scale, enable_gqa=shared
        )
    elif not q.is_meta and torch.is_autocast_enabled(q.device.type) and q.dtype == k.dtype == v.dtype:
        with torch.autocast(q.device.type, enabled=False):  # it changes nothing in our kernels either
            output = compute(q, k, v, *rest)
    else:
        output = compute(q, k, v, *rest)
    result = output.transpose(-3, -2) if tensor_layout == "NHD" else output
    # With a mask torch's kernels write another layout than HND; to copy that costs up to 6 % of the call.
    if not nested and (attn_mask is None or tensor_layout == "NHD"):
        result = result.contiguous()
    return (result, _logsumexp(q, k, is_causal, sm_scale, attn_mask)) if return_lse else result


def as_it_is(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool, scale: Any) -> Tensor:
    """Compute a call that is remembered, as `sageattn` returns it."""
    if tensor_layout == "NHD":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    output = sdpa(q, k, v, None, 0.0, is_causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return (output.transpose(1, 2) if tensor_layout == "NHD" else output).contiguous()


def compute(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any, dropout_p: float, is_causal: bool, scale: Any, gqa: bool
) -> Tensor:
    """Call torch's function so that none of its kernels meets what it computes wrong."""
    if not q.is_nested:
        if scale is not None and scale < 0:  # not all of torch's kernels compute that
            q, scale = -q, -scale
        if scale is not None and scale < _SMALLEST_SCALE:
            q, scale = q * 0, 1.0
        if type(attn_mask) in (Tensor, torch.nn.Parameter):  # not torch's own kinds of bias
            if attn_mask.is_floating_point() and attn_mask.dtype != q.dtype:
                attn_mask = attn_mask.to(q.dtype)  # another type gives NaN (torch 2.11, CUDA)
        q, k, v = aligned(q), aligned(k), aligned(v)
    return sdpa(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=gqa)


def aligned(tensor: Tensor) -> Tensor:
    """Return a tensor whose rows begin at multiples of 16 bytes, as flash and cuDNN take for granted."""
    unit = 16 // tensor.element_size()
    compiling = is_compiling()  # it knows no offsets
    if compiling and tensor.is_contiguous():
        return tensor
    shifted = not compiling and tensor.storage_offset() % unit != 0
    *outer, last = tensor.stride() or (1,)  # of what has one element any, though it is contiguous
    if shifted or last != 1 or (tensor.size(-1) % unit == 0 and any(stride % unit for stride in outer)):
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def _logsumexp(
    q: Tensor, k: Tensor, is_causal: bool, sm_scale: float | None, attn_mask: Tensor | None
) -> Tensor:
    """Return the logsumexp of each row of QK^T * sm_scale, float32 (float64 for such inputs)."""
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    scale = q.size(-1) ** -0.5 if sm_scale is None else sm_scale
    if q.dim() > 2 and q.size(-3) != k.size(-3):
        k = k.repeat_interleave(q.size(-3) // k.size(-3), dim=-3)
    rows = q_rows = q.size(-2)
    if not is_compiling():
        rows = max(1, _PER_CHUNK // max(1, k.size(-2) * math.prod(q.shape[:-2])))
    parts = []
    with torch.autocast(q.device.type, enabled=False):
        for start in range(0, q_rows, rows) if rows < q_rows else (0,):
            product = torch.matmul(
                q[..., start : start + rows, :].to(exact) * scale, k.to(exact).transpose(-2, -1)
            )
            if is_causal:
                ones = torch.ones(product.shape[-2:], dtype=torch.bool, device=q.device)
                product = product.masked_fill(~ones.tril(start), float("-inf"))
            if attn_mask is not None:
                mask = attn_mask.expand(*q.shape[:-1], k.size(-2))[..., start : start + rows, :]
                is_bool = mask.dtype == torch.bool
                product = product.masked_fill(~mask, float("-inf")) if is_bool else product + mask
            parts.append(product.logsumexp(-1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class NoDerivative(torch.autograd.Function):
    """Ties an output to its inputs, so that derivatives are refused and not forgotten."""

    @staticmethod
    def forward(output: Tensor, *inputs: Tensor) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (None, *(_fused.no_backward(gradients[0], tensor) for tensor in ctx.saved_tensors))
