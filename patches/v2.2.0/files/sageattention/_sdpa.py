# SPDX-License-Identifier: Apache-2.0
"""Attention in the place of torch's function: one function with its signature, and a context for a whole model."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from . import _torch, core
from ._arguments import Call, warn_once
from ._torch import sdpa


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute what torch.nn.functional.scaled_dot_product_attention does, with our kernels where they are faster.

    Any leading dimensions. The output has the memory layout of `query`, as torch's has.
    """
    signature: tuple[Any, ...] = ()
    known = not isinstance(query, torch.Tensor)  # what is none has its own way, or is torch's error
    if attn_mask is None and not known:
        signature, known = _torch.look_up(query, key, value, is_causal, scale, enable_gqa)
    if known:
        return sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    dims = query.dim()
    if (
        dims >= 3
        and not query.is_nested
        and key.dim() == value.dim() == dims
        and query.shape[:-3] == key.shape[:-3] == value.shape[:-3]
        and query.numel()
        and key.numel()
        and (enable_gqa or query.size(-3) == key.size(-3))
        and (dims == 4 or attn_mask is None or attn_mask.dim() <= 3)
    ):
        q, k, v = four = [x if dims == 4 else x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
        layout = "HND"
        if q.stride(1) < q.stride(2):
            layout, q, k, v = "NHD", q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        scale_or_default = q.size(-1) ** -0.5 if scale is None else scale
        call = Call(q, k, v, layout, is_causal, scale_or_default, False, attn_mask, dropout_p)
        plan = core.plan_of(call)
        if plan.advice:
            warn_once(plan.advice, plan.reason)
        if plan.sizes_decide and dims == 4:
            _torch.remember(signature, call)
        if plan.kernel is not None:
            output = core.compute(plan, call)
            if layout == "NHD":
                output = output.transpose(1, 2)
            return output if dims == 4 else output.reshape(query.shape)
        if dims != 4 and query.is_cuda:  # torch's fused kernels take four dimensions alone
            output = _torch.compute(*four, attn_mask, dropout_p, is_causal, scale, enable_gqa)
            return output.reshape(*query.shape[:-1], value.size(-1))
    return _torch.compute(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


class patched(TorchFunctionMode):  # noqa: N801  a context manager, named as one
    """Have all code inside `with sageattention.patched():` compute attention with our kernels where they are faster.

    It meets every call of torch.nn.functional.scaled_dot_product_attention in this thread, by whatever name the caller
    has it, and under torch.compile. It misses nn.MultiheadAttention and nn.TransformerEncoderLayer, which call it from
    inside torch, and other threads.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is sdpa:
            function = scaled_dot_product_attention
        return function(*args, **(kwargs or {}))
