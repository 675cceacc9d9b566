# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled libraries, and tells torch.compile the shapes of what their operators return."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Fake = Callable[..., Any]


def operators(name: str, namespace: str, fakes: dict[str, Fake], other_fake: Fake) -> dict[str, Any]:
    """Load `lib/<name>.so`, and return the operators of its namespace by name (`name.overload` where they have one).

    `fakes` tell torch.compile the shapes of their results.

    Raises:
        ModuleNotFoundError: This build holds no such library: none of its architectures has those kernels.
        ImportError: The library is there and can't be loaded; the message says why.
    """
    path = Path(__file__).parent / "lib" / f"{name}.so"
    if not path.is_file():
        message = f"this build has no {path.name}: none of its architectures has those kernels"
        raise ModuleNotFoundError(message, name=f"sageattention.{name}", path=str(path))
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        hint = f"The wheel's name says for which torch and CUDA it is; this is torch {torch.__version__}."
        message = f"SageAttention's library {path.name} can't be loaded: {error}. ({hint})"
        raise ImportError(message, name=f"sageattention.{name}", path=str(path)) from error
    made = {}
    for full_name in torch._C._dispatch_get_all_op_names():
        space, _, name = full_name.partition("::")
        if space == namespace:
            packet, _, overload = name.partition(".")
            made[name] = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
            torch.library.register_fake(full_name)(fakes.get(name, other_fake))
    return made


def attention_fake(query: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """The logsumexp that an attention operator returns: without data, and empty if it was not asked for.

    The last five arguments of each are tensor_layout, is_causal, qk_quant_gran, sm_scale, return_lse.
    """
    tensor_layout, return_lse = arguments[-5], arguments[-1]
    if not return_lse:
        return query.new_empty((0,), dtype=torch.float32)
    seq_dim, head_dim = (1, 2) if tensor_layout == 0 else (2, 1)
    return query.new_empty((query.size(0), query.size(head_dim), query.size(seq_dim)), dtype=torch.float32)


def attend_fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: int, *arguments: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and logsumexp of an operator that prepares its inputs, without data."""
    return_lse = arguments[4]
    *outer, head_dim = q.shape
    output = q.new_empty((*outer, 64 if head_dim <= 64 else 128))
    heads, tokens = (outer[2], outer[1]) if tensor_layout == 0 else (outer[1], outer[2])
    return output, q.new_empty((outer[0], heads, tokens) if return_lse else (0,), dtype=torch.float32)


def prepare_fake(q: torch.Tensor, k: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    """What the operator that prepares Q, K and V makes, without data; csrc/fused/prepare.h has its arguments."""
    _, granularity, q_block, q_rows, k_rows, v_mode, _, smooth_k, smooth_v, _, _, correct = arguments
    batch, q_heads, q_tokens, given_head_dim = q.shape
    _, kv_heads, kv_tokens, _ = k.shape
    head_dim = 64 if given_head_dim <= 64 else 128
    q_scales, k_scales = (8, 4) if granularity == 3 else (1, 1)

    def number(*sizes: int) -> torch.Tensor:
        return q.new_empty(sizes, dtype=torch.float32)

    v_made = v_scale = v_mean = correction = None
    if v_mode == 1:
        v_made = q.new_empty((batch, kv_heads, kv_tokens, head_dim), dtype=torch.float16)
    elif v_mode == 2:
        padded = (kv_tokens + k_rows - 1) // k_rows * k_rows
        v_made = q.new_empty((batch, kv_heads, head_dim, padded), dtype=torch.float8_e4m3fn)
    if v_mode:
        v_scale = number(batch, kv_heads, head_dim)
        if smooth_v:
            v_mean = q.new_empty((batch, kv_heads, head_dim), dtype=torch.float32 if v_mode == 2 else q.dtype)
    if smooth_k and correct:
        correction = number(batch, q_heads, q_tokens)
    return (
        q.new_empty((batch, q_heads, q_tokens, head_dim), dtype=torch.int8),
        number(batch, q_heads, (q_tokens + q_block - 1) // q_block * (q_block // q_rows) * q_scales),
        q.new_empty((batch, kv_heads, kv_tokens, head_dim), dtype=torch.int8),
        number(batch, kv_heads, (kv_tokens + k_rows - 1) // k_rows * k_scales),
        *(number(0) if tensor is None else tensor for tensor in (v_made, v_scale, v_mean, correction)),
    )
