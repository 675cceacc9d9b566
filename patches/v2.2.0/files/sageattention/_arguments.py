# SPDX-License-Identifier: Apache-2.0
"""What the arguments of a call mean, and what is wrong with them."""

import difflib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_TYPES = (torch.float16, torch.bfloat16)


class Call(NamedTuple):
    """The arguments of a call, as `sageattn` names them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    tensor_layout: str
    is_causal: bool
    sm_scale: float | None
    return_lse: bool = False
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    smooth_k: bool = True
    smooth_v: bool = False


# cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k of packed sequences
Packed = tuple[torch.Tensor, torch.Tensor, int, int]


class Sizes(NamedTuple):
    """Sizes of Q, K and V."""

    batch: int
    q_heads: int
    kv_heads: int
    q_tokens: int
    kv_tokens: int
    head_dim: int

    @property
    def padded(self) -> int:
        """The head dim that the kernels take."""
        return 64 if self.head_dim <= 64 else 128


def properties(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[Any, ...]:
    """Return what `sizes_of` looks at."""
    return q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, k.device, v.device


def sizes_of(layout: str | None, properties: tuple[Any, ...]) -> Sizes | str:
    """Return the sizes, or what keeps the kernels from computing; no layout: packed, `[tokens, heads, head_dim]`."""
    q, k, v, q_type, k_type, v_type, q_device, k_device, v_device = properties
    dims = 3 if layout is None else 4
    if not len(q) == len(k) == len(v) == dims:
        return _shapes(q, k, v, f"q, k and v: each must have {dims} dimensions")
    heads, tokens = (1, 0) if layout is None else (1, 2) if layout == "HND" else (2, 1)
    if k != v:
        return _shapes(q, k, v, "v: k and v must have one shape")
    if layout is not None and q[0] != k[0]:
        return _shapes(q, k, v, "k: q and k must have one batch size")
    if q[-1] != k[-1]:
        return _shapes(q, k, v, "k: q and k must have one head_dim")
    if not 1 <= q[-1] <= 128:
        return _shapes(q, k, v, "q: head_dim must be from 1 to 128")
    if (k[heads] == 0 and q[heads] > 0) or (k[heads] and q[heads] % k[heads]):
        return _shapes(q, k, v, "k: the number of heads of k must divide that of q")
    if k[tokens] == 0 and 0 not in q:
        return _shapes(q, k, v, "k: there are no keys to attend to")
    if q_type not in _TYPES or k_type != q_type or v_type != q_type:
        return f"q is {q_type}, k {k_type} and v {v_type}: all must be float16, or all bfloat16. (Cast them first.)"
    if q_device.type != "cuda" or k_device != q_device or v_device != q_device:
        return f"q is on {q_device}, k on {k_device} and v on {v_device}: all must be on one CUDA device."
    return Sizes(1 if layout is None else q[0], q[heads], k[heads], q[tokens], k[tokens], q[-1])


def _shapes(q: Any, k: Any, v: Any, why: str) -> str:
    if torch.compiler.is_compiling():  # which can't look at a text with symbols in it
        return why
    return f"{why}. The shapes are q {tuple(q)}, k {tuple(k)} and v {tuple(v)}."


def is_foreign(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is one that the kernels can't read: nested or distributed."""
    return tensor.is_nested or (type(tensor) is not torch.Tensor and hasattr(tensor, "device_mesh"))


def mask_obstacle(call: Call, sizes: Sizes) -> str:
    """Return what keeps the kernels from honouring the mask; empty for nothing."""
    q, mask = call.q, call.attn_mask
    assert mask is not None
    if call.is_causal:
        return "attn_mask can't be combined with is_causal=True: put the causal part into the mask."
    if type(mask) is not torch.Tensor and hasattr(type(mask), "_dispatch"):
        return f"attn_mask is a {type(mask).__name__}, which is torch's own."
    if mask.dtype not in (torch.bool, q.dtype, torch.float32):
        return f"attn_mask is {mask.dtype}: expected bool, float32 or {q.dtype}, the type of q."
    if mask.device != q.device:
        return f"attn_mask is on {mask.device} and q on {q.device}."
    target = (sizes.batch, sizes.q_heads, sizes.q_tokens, sizes.kv_tokens)
    skipped = 4 - mask.dim()
    if skipped < 0 or any(size not in (1, target[skipped + i]) for i, size in enumerate(mask.shape)):
        return f"attn_mask has shape {tuple(mask.shape)}, which does not broadcast to {target}, that of QK^T."
    return ""


def check_layout(tensor_layout: Any) -> None:
    if not isinstance(tensor_layout, str) or tensor_layout not in ("HND", "NHD"):
        shown = "a tensor" if isinstance(tensor_layout, torch.Tensor) else repr(tensor_layout)
        hint = "(sageattention.scaled_dot_product_attention has the order of arguments of torch's function.)"
        raise ValueError(f"tensor_layout is {shown}: expected 'HND' or 'NHD'. {hint}")


def scale_of(sm_scale: float | None, scale: float | None, q: torch.Tensor) -> float:
    """Return the factor of QK^T, whichever name it came by."""
    if sm_scale is not None and scale is not None and sm_scale != scale:
        raise ValueError(f"sm_scale is {sm_scale} and scale is {scale}: give one of them.")
    if sm_scale is None:
        sm_scale = scale
    if sm_scale is None:
        return q.size(-1) ** -0.5 if q.size(-1) else 1.0
    if torch.compiler.is_compiling():  # a symbol has no value yet
        return sm_scale
    if not math.isfinite(sm_scale):
        raise ValueError(f"sm_scale is {sm_scale}: expected a finite number.")
    return float(sm_scale)


def keywords(
    function: Callable[..., Any], others: dict[str, Any], is_causal: Any, sm_scale: float | None
) -> tuple[Any, float | None]:
    """Return `is_causal` and `sm_scale`, which may have come by other names, and refuse what asks for anything else."""
    for name, value in others.items():
        if name == "softmax_scale":
            if value is not None and sm_scale is not None and sm_scale != value:
                raise ValueError(f"sm_scale is {sm_scale} and softmax_scale is {value}: give one of them.")
            sm_scale = sm_scale if value is None else value
        elif name == "causal":
            is_causal = is_causal or value
        elif not _asks_for_nothing(value):
            names = [*function.__annotations__][:-2]  # without kwargs and return
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}."
            raise TypeError(f"{function.__name__}() has no argument {name!r} (here {value!r}){hint}")
    return is_causal, sm_scale


def _asks_for_nothing(value: Any) -> bool:
    if isinstance(value, (tuple, list)):  # a window without ends
        return all(part == -1 for part in value)
    return value is None or (isinstance(value, (bool, int, float)) and not value)


def number(name: str, value: str, known: dict[str, int]) -> int:
    """Return the number that the operators have for a value."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}: expected {' or '.join(map(repr, known))}.")
    return known[value]


_warned: set[str] = set()


def warn_once(kind: str, reason: str) -> None:
    """Say why torch's function computes: each kind of reason once a process, none while torch.compile traces."""
    if not torch.compiler.is_compiling() and kind not in _warned:
        _warned.add(kind)
        warnings.warn(f"SageAttention takes torch's attention: {reason}", stacklevel=3)
