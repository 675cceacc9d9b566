# SPDX-License-Identifier: Apache-2.0
"""SageAttention's functions: every argument is checked here, once, before anything runs on the GPU.

One operator then prepares Q, K and V (int8, and V as the kernel wants it), and one computes attention. Only
functions that say so, and those that are given a mask, use Triton.
"""

import difflib
import importlib.util
import itertools
import math
import os
import shutil
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch

from . import _fused
from ._device import on_device_of_query
from .quant import per_block_int8 as per_block_int8_cuda
from .quant import per_channel_fp8, sub_mean
from .quant import per_warp_int8 as per_warp_int8_cuda

try:
    from . import _qattn_sm80, sm80_compile

    SM80_ENABLED = True
except ImportError:  # not in this build; _library.load lets every other error through
    SM80_ENABLED = False

try:
    from . import _qattn_sm89, sm89_compile

    SM89_ENABLED = True
except ImportError:
    SM89_ENABLED = False

try:
    from . import _qattn_sm90, sm90_compile

    SM90_ENABLED = True
except ImportError:
    SM90_ENABLED = False

__all__ = [
    "per_block_int8_cuda",
    "per_channel_fp8",
    "per_warp_int8_cuda",
    "sageattn",
    "sageattn_qk_int8_pv_fp8_cuda",
    "sageattn_qk_int8_pv_fp8_cuda_sm90",
    "sageattn_qk_int8_pv_fp16_cuda",
    "sageattn_qk_int8_pv_fp16_triton",
    "sageattn_varlen",
    "sm80_compile",
    "sm89_compile",
    "sm90_compile",
    "sub_mean",
]

# Names that upstream's module has, imported at first use: `import sageattention` does not import Triton.
_TRITON = {
    "per_block_int8_triton": ("quant_per_block", "per_block_int8"),
    "per_block_int8_varlen_triton": ("quant_per_block_varlen", "per_block_int8"),
    "per_thread_int8_triton": ("quant_per_thread", "per_thread_int8"),
    "attn_false": ("attn_qk_int8_per_block", "forward"),
    "attn_true": ("attn_qk_int8_per_block_causal", "forward"),
    "attn_false_varlen": ("attn_qk_int8_block_varlen", "forward"),
    "attn_true_varlen": ("attn_qk_int8_per_block_causal_varlen", "forward"),
}

_LOG2_E = 1.4426950408889634
_LAYOUTS = ("HND", "NHD")
_TYPES = (torch.float16, torch.bfloat16)
_PER_BLOCK = 1  # granularities of int8 scales, as the kernels number them
_GRANULARITIES = {"per_warp": 2, "per_thread": 3}
_V_FLOAT16 = 1
# A sum of 64 products of weights up to 1 with these fits into float16, which the Triton kernels add in.
_SUMMED_IN_FLOAT16 = 512.0
_LARGEST_LOGIT = 262144.0  # as in prepare.cu


def __getattr__(name: str) -> Any:
    if name not in _TRITON:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _TRITON[name]
    return getattr(importlib.import_module(f"{__package__}.triton.{module}"), attribute)


def get_cuda_version() -> tuple[int, int]:
    """Return the CUDA version that torch is built for."""
    major, minor, *_ = str(torch.version.cuda).split(".")
    return int(major), int(minor)


def get_cuda_arch_versions() -> list[str]:
    """Return the architecture of each GPU, such as "sm90"."""
    return [_architecture(index) for index in range(torch.cuda.device_count())]


_architectures: dict[int, str] = {}


def _architecture(device_index: int) -> str:
    """Return the architecture of one GPU, such as "sm90"."""
    if device_index not in _architectures:
        major, minor = torch.cuda.get_device_capability(device_index)
        _architectures[device_index] = f"sm{major}{minor}"
    return _architectures[device_index]


def _has_triton() -> bool:
    """Return whether Triton is installed, and the C compiler that it calls at the first launch."""
    compilers = (os.environ.get("CC") or "", "gcc", "clang", "cc")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


# torch.compile takes their results for constants. This is what torch.compiler.assume_constant_result does, whose call
# would import torch._dynamo, which takes seconds.
for _function in (_architecture, _has_triton):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Shape(NamedTuple):
    """Sizes of checked inputs; `head_dim` is what the kernels take, 64 or 128."""

    batch: int
    q_heads: int
    kv_heads: int
    q_tokens: int
    kv_tokens: int
    given_head_dim: int

    @property
    def head_dim(self) -> int:
        return 64 if self.given_head_dim <= 64 else 128


def sageattn(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    sm_scale: float | None = None,
    return_lse: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    smooth_k: bool = True,
    smooth_v: bool = False,
    qk_quant_gran: str | None = None,
    pv_accum_dtype: str | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with the kernel that fits the GPU of `q`.

    Args:
        q: float16 or bfloat16 on a CUDA device, `[batch, heads, tokens, head_dim]` for the layout "HND",
            `[batch, tokens, heads, head_dim]` for "NHD"; any strides. `head_dim` is at most 128.
        k: As `q`, with a number of heads that divides that of `q`.
        v: Of the shape of `k`.
        tensor_layout: "HND" or "NHD".
        is_causal: Query i attends to keys 0 to i, wherever the two lengths differ, as in torch's
            scaled_dot_product_attention: the mask starts at the top left.
        sm_scale: Factor of QK^T; None is `head_dim ** -0.5`.
        return_lse: Return the logsumexp too.
        attn_mask: bool (True: attend) or a float to add to QK^T, of a shape that broadcasts to
            `[batch, heads, tokens of q, tokens of k]`. Takes a Triton kernel, unless it is True throughout.
        smooth_k: Subtract the mean of K over its tokens, which makes int8 more accurate and changes nothing else.
        smooth_v: Likewise for V, where the kernel has it: `pv_accum_dtype` "fp16" or "fp32" of the functions below.
        qk_quant_gran: "per_warp" or "per_thread"; None is the kernel's default.
        pv_accum_dtype: How the product with V is summed, as the function for this GPU names it; None is its default.
        scale: The same as `sm_scale`, by the name that torch has for it.
        dropout_p: Must be 0.
        enable_gqa: Accepted for callers of torch's function: heads are shared wherever their numbers differ.
        **kwargs: None: what no function knows is refused.

    Returns:
        The output, of the shape and type of `q`; with `return_lse` a tuple of it and the logsumexp of each row of
        QK^T * sm_scale, float32 `[batch, heads, tokens]`.

    Raises:
        ValueError: An argument has a value that can't be honoured, or shapes, types or devices disagree.
        TypeError: An unknown keyword.
        RuntimeError: There is no kernel for this GPU in this build, or the launch failed. `backward()` raises it too:
            there is no gradient.
    """
    _refuse(sageattn, kwargs, dropout_p)
    options: dict[str, Any] = {
        "tensor_layout": tensor_layout,
        "is_causal": is_causal,
        "sm_scale": _scale_of(sm_scale, scale, q),
        "return_lse": return_lse,
        "attn_mask": attn_mask,
        "smooth_k": smooth_k,
    }
    if qk_quant_gran is not None:
        options["qk_quant_gran"] = qk_quant_gran
    if pv_accum_dtype is not None:
        options["pv_accum_dtype"] = pv_accum_dtype
    if smooth_v:
        options["smooth_v"] = smooth_v
    if not q.is_cuda:
        raise ValueError(f"q is on {q.device}: SageAttention runs on CUDA devices.")
    architecture = _architecture(q.device.index)
    function, defaults = _for_gpu(architecture)
    if function is sageattn_qk_int8_pv_fp16_triton and architecture != "sm75" and (
        qk_quant_gran is not None or pv_accum_dtype is not None or not _has_triton()
    ):
        function, defaults = sageattn_qk_int8_pv_fp16_cuda, {"pv_accum_dtype": "fp16+fp32"}
    return function(q, k, v, **{**defaults, **options})


def sageattn_qk_int8_pv_fp16_cuda(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    qk_quant_gran: str = "per_thread",
    sm_scale: float | None = None,
    pv_accum_dtype: str = "fp32",
    smooth_k: bool = True,
    smooth_v: bool = False,
    return_lse: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with int8 QK^T and float16 PV, on compute capability 8.0 and later.

    Arguments and errors are those of `sageattn`, and:

    Args:
        pv_accum_dtype: "fp32"; "fp16+fp32", which sums 64 products in float16 and those sums in float32; or "fp16".
        smooth_v: For "fp16" only; otherwise there is a warning, and no need.
    """
    _enabled(SM80_ENABLED, "_qattn_sm80")
    granularity = _number("qk_quant_gran", qk_quant_gran, _GRANULARITIES)
    accumulated = _number("pv_accum_dtype", pv_accum_dtype, {"fp32": 0, "fp16+fp32": 1, "fp16": 2})
    smooth_v = _smooth_v(smooth_v, pv_accum_dtype, "fp16")

    sm_scale = _scale_of(sm_scale, scale, q)
    _refuse(sageattn_qk_int8_pv_fp16_cuda, kwargs, dropout_p)
    return _attend(
        q, k, v, tensor_layout, is_causal, attn_mask, sm_scale, smooth_k, return_lse,
        _qattn_sm80.attention, granularity, accumulated, smooth_v,
    )  # fmt: skip


def sageattn_qk_int8_pv_fp8_cuda(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    qk_quant_gran: str = "per_thread",
    sm_scale: float | None = None,
    pv_accum_dtype: str = "fp32+fp16",
    smooth_k: bool = True,
    smooth_v: bool = False,
    return_lse: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with int8 QK^T and float8 PV, on compute capability 8.9 and later.

    Arguments and errors are those of `sageattn`, and:

    Args:
        pv_accum_dtype: "fp32+fp16", which sums in float16 inside an instruction; "fp32+fp32"; or "fp32", whose sums
            have 22 bits on 8.9 and 9.0.
        smooth_v: For "fp32" only; otherwise there is a warning, and no need.
    """
    _enabled(SM89_ENABLED, "_qattn_sm89")
    granularity = _number("qk_quant_gran", qk_quant_gran, _GRANULARITIES)
    accumulated = _number("pv_accum_dtype", pv_accum_dtype, {"fp32": 0, "fp32+fp32": 1, "fp32+fp16": 2})
    smooth_v = _smooth_v(smooth_v, pv_accum_dtype, "fp32")

    sm_scale = _scale_of(sm_scale, scale, q)
    _refuse(sageattn_qk_int8_pv_fp8_cuda, kwargs, dropout_p)
    return _attend(
        q, k, v, tensor_layout, is_causal, attn_mask, sm_scale, smooth_k, return_lse,
        _qattn_sm89.attention, granularity, accumulated, smooth_v,
    )  # fmt: skip


def sageattn_qk_int8_pv_fp8_cuda_sm90(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    qk_quant_gran: str = "per_thread",
    sm_scale: float | None = None,
    pv_accum_dtype: str = "fp32+fp32",
    smooth_k: bool = True,
    return_lse: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with int8 QK^T and float8 PV on Hopper's instructions, compute capability 9.0.

    Arguments and errors are those of `sageattn`, and:

    Args:
        pv_accum_dtype: "fp32+fp32".
    """
    _enabled(SM90_ENABLED, "_qattn_sm90")
    granularity = _number("qk_quant_gran", qk_quant_gran, _GRANULARITIES)
    accumulated = _number("pv_accum_dtype", pv_accum_dtype, {"fp32+fp32": 1})

    _smooth_v(kwargs.pop("smooth_v", False), pv_accum_dtype, "")
    sm_scale = _scale_of(sm_scale, scale, q)
    _refuse(sageattn_qk_int8_pv_fp8_cuda_sm90, kwargs, dropout_p)
    return _attend(
        q, k, v, tensor_layout, is_causal, attn_mask, sm_scale, smooth_k, return_lse,
        _qattn_sm90.attention, granularity, accumulated, False,
    )  # fmt: skip


def sageattn_qk_int8_pv_fp16_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    quantization_backend: str = "auto",
    is_causal: bool = False,
    attn_mask: torch.Tensor | None = None,
    sm_scale: float | None = None,
    smooth_k: bool = True,
    return_lse: bool = False,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with int8 QK^T and float16 PV in Triton, which is compiled for the GPU at the first call.

    Arguments and errors are those of `sageattn`, and:

    Args:
        quantization_backend: "cuda", this build's operator, or "triton"; "auto" is the first where the GPU has it,
            from compute capability 8.0 on.

    Raises:
        ImportError: Triton is not installed.
    """
    _one_of("quantization_backend", quantization_backend, ("auto", "cuda", "triton"))
    _smooth_v(kwargs.pop("smooth_v", False), "in Triton", "")
    sm_scale = _scale_of(sm_scale, scale, q)
    _refuse(sageattn_qk_int8_pv_fp16_triton, kwargs, dropout_p)
    return _attend(
        q, k, v, tensor_layout, is_causal, attn_mask, sm_scale, smooth_k, return_lse, backend=quantization_backend
    )


def _for_gpu(architecture: str) -> tuple[Callable[..., Any], dict[str, str]]:
    """Return what sageattn() calls on a GPU, and the options that are best there.

    A GPU that is newer than the wheel has no machine code in it: the driver compiles the PTX for 8.9.
    """
    if architecture in _FOR_GPU:
        return _FOR_GPU[architecture]
    number = int(architecture[2:])
    if number >= 100:
        return _FOR_GPU["sm89"]
    if number > 80:
        return _FOR_GPU["sm86"]
    raise RuntimeError(
        f"sageattn() knows no kernel for this GPU ({architecture}). sageattn_qk_int8_pv_fp16_triton() is compiled "
        "for the GPU at the first call and may work: compare its results with scaled_dot_product_attention's."
    )


# What sageattn() calls on which GPU.
_FOR_GPU: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "sm75": (sageattn_qk_int8_pv_fp16_triton, {}),
    "sm80": (sageattn_qk_int8_pv_fp16_cuda, {}),
    # Reported to be faster there than the kernel in CUDA, which is taken where Triton can't be.
    "sm86": (sageattn_qk_int8_pv_fp16_triton, {}),
    "sm89": (sageattn_qk_int8_pv_fp8_cuda, {}),
    "sm90": (sageattn_qk_int8_pv_fp8_cuda_sm90, {}),
    # Its float32 sums are exact, and per_warp is as fast.
    "sm120": (sageattn_qk_int8_pv_fp8_cuda, {"qk_quant_gran": "per_warp"}),
    "sm121": (sageattn_qk_int8_pv_fp8_cuda, {"qk_quant_gran": "per_warp"}),
}


@on_device_of_query
def sageattn_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    is_causal: bool = False,
    sm_scale: float | None = None,
    smooth_k: bool = True,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = True,
    **kwargs: Any,
) -> torch.Tensor:
    """Compute attention for sequences of different lengths that are packed one after the other, in Triton.

    Sequence i of Q is `q[cu_seqlens_q[i]:cu_seqlens_q[i + 1]]`, and likewise for K and V. The lengths are read back
    from the GPU and checked, so the call waits for it; under torch.compile they are not.

    Args:
        q: float16 or bfloat16 on a CUDA device, `[tokens, heads, head_dim]`; `head_dim` is at most 128.
        k: As `q`, with a number of heads that divides that of `q`.
        v: Of the shape of `k`.
        cu_seqlens_q: Where sequences begin and end: int32 or int64 `[sequences + 1]`, from 0 up.
        cu_seqlens_k: Likewise for `k` and `v`.
        max_seqlen_q: At least the length of the longest sequence of `q`.
        max_seqlen_k: Likewise for `k`.
        is_causal: In each sequence, query i attends to keys 0 to i.
        sm_scale: Factor of QK^T; None is `head_dim ** -0.5`.
        smooth_k: Subtract the mean of K over all tokens.
        scale: The same as `sm_scale`.
        dropout_p: Must be 0.
        enable_gqa: Accepted: heads are shared wherever their numbers differ.
        **kwargs: None: what the function does not know is refused.

    Returns:
        The output, of the shape and type of `q`; zero for tokens that are in no sequence.

    Raises:
        ValueError: An argument has a value that can't be honoured, or shapes, types or devices disagree.
        TypeError: An unknown keyword.
        ImportError: Triton is not installed.
    """
    sm_scale = _scale_of(sm_scale, scale, q)
    _refuse(sageattn_varlen, kwargs, dropout_p)
    shape = _check(q, k, v, None)
    for name, lengths in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        _need(
            lengths.dim() == 1 and lengths.numel() > 0 and lengths.shape == cu_seqlens_q.shape,
            f"{name} has shape {tuple(lengths.shape)} and cu_seqlens_q {tuple(cu_seqlens_q.shape)}: expected one "
            "dimension, of the number of sequences and 1.",
        )
        _need(lengths.dtype in (torch.int32, torch.int64), f"{name} is {lengths.dtype}: expected int32 or int64.")
        _need(lengths.device == q.device, f"{name} is on {lengths.device} and q on {q.device}.")
    covered = q.size(0)
    if not torch.compiler.is_compiling():
        ends_q, ends_k = torch.stack((cu_seqlens_q.long(), cu_seqlens_k.long())).tolist()
        _check_lengths("q", ends_q, q.size(0), max_seqlen_q)
        _check_lengths("k", ends_k, k.size(0), max_seqlen_k)
        for i, (start, end) in enumerate(itertools.pairwise(ends_k)):
            _need(start < end or ends_q[i] == ends_q[i + 1], f"Sequence {i} of k has no tokens, and that of q has.")
        covered = ends_q[-1]
    if q.numel() == 0 or covered == 0:
        return torch.zeros_like(q)
    given = q, k, v
    q, k, v = q.detach(), k.detach(), v.detach()
    pad = shape.head_dim - shape.given_head_dim
    if pad:
        q, k, v = (torch.nn.functional.pad(tensor, (0, pad)) for tensor in (q, k, v))
    q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
    if smooth_k:
        k = (k / 2).sub_(_mean(k, 0) / 2)
    v, v_scale = _fitting_float16(v, 0)
    from .triton.attn_qk_int8_block_varlen import forward as attn_false
    from .triton.attn_qk_int8_per_block_causal_varlen import forward as attn_true
    from .triton.quant_per_block_varlen import per_block_int8 as quantise

    attend = attn_true if is_causal else attn_false
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
    q_int8, q_scale, k_int8, k_scale, q_starts, k_starts = quantise(
        q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, sm_scale=sm_scale
    )
    k_scale = _limited(k_scale, q_scale, shape, smooth_k)
    output = attend(
        q_int8, k_int8, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, q_scale, k_scale, q_starts, k_starts,
        output_dtype=q.dtype,
    )  # fmt: skip
    most = torch.finfo(output.dtype).max
    output.mul_(v_scale.repeat_interleave(shape.q_heads // shape.kv_heads, dim=1)).clamp_(-most, most)
    if covered < output.size(0):
        output[covered:] = 0
    output = output[..., : shape.given_head_dim]
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return _NoGradient.apply(output, *given) if needs_gradient else output


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str,
    is_causal: bool,
    attn_mask: torch.Tensor | None,
    sm_scale: float,
    smooth_k: bool,
    return_lse: bool,
    operator: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
    granularity: int = 0,
    accumulated: int = 0,
    smooth_v: bool = False,
    backend: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Check the inputs and call the operator; without one, and with a mask, compute in Triton."""
    shape = _check(q, k, v, tensor_layout)
    if attn_mask is not None:
        attn_mask = _check_mask(attn_mask, shape, q, is_causal)
    if shape.batch == 0 or shape.q_heads == 0 or shape.q_tokens == 0:
        lse = q.new_empty((shape.batch, shape.q_heads, shape.q_tokens), dtype=torch.float32)
        return (torch.empty_like(q), lse) if return_lse else torch.empty_like(q)
    given = None
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        given = q, k, v
        q, k, v = q.detach(), k.detach(), v.detach()
    if operator is None or attn_mask is not None:
        output, lse = _attend_in_triton(
            q, k, v, shape, tensor_layout, is_causal, attn_mask, sm_scale, smooth_k, return_lse, backend
        )
    else:
        output, lse = operator(
            q, k, v, 0 if tensor_layout == "NHD" else 1, int(is_causal), granularity, sm_scale, int(smooth_k),
            int(return_lse), accumulated, int(smooth_v),
        )  # fmt: skip
    if shape.given_head_dim not in (64, 128):
        output = output[..., : shape.given_head_dim]
    if given is not None:
        output = _NoGradient.apply(output, *given)
    return (output, lse) if return_lse else output


@on_device_of_query
def _attend_in_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    shape: _Shape,
    tensor_layout: str,
    is_causal: bool,
    attn_mask: torch.Tensor | None,
    sm_scale: float,
    smooth_k: bool,
    return_lse: bool,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output, with the head dim padded, and logsumexp."""
    if tensor_layout == "NHD":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    try:
        from .triton.attn_qk_int8_per_block import forward as attn_false
        from .triton.attn_qk_int8_per_block_causal import forward as attn_true
        from .triton.quant_per_block import per_block_int8
    except ImportError as error:
        why = "attn_mask is given" if attn_mask is not None else "this function is compiled by it"
        raise ImportError(f"Triton is needed, since {why}: pip install triton ({error})") from error
    attend = attn_true if is_causal else attn_false
    if backend == "auto":
        backend = "triton" if _architecture(q.device.index) == "sm75" else "cuda"
    given = q.dtype
    if backend == "cuda":
        q_int8, q_scale, k_int8, k_scale, v, v_scale, _, correction = _fused.prepare(
            q, k, v, _PER_BLOCK, 128, 128, 64, _V_FLOAT16, _SUMMED_IN_FLOAT16,
            int(smooth_k), 0, sm_scale, 1, int(return_lse),
        )  # fmt: skip
    else:
        pad = shape.head_dim - shape.given_head_dim
        if pad:
            q, k, v = (torch.nn.functional.pad(tensor, (0, pad)) for tensor in (q, k, v))
        q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
        correction = q.new_empty((0,))
        if smooth_k:
            mean = _mean(k, 2)
            if return_lse:
                shared = mean.repeat_interleave(shape.q_heads // shape.kv_heads, dim=1)
                correction = torch.matmul(q.float(), shared.float().transpose(2, 3)).squeeze(-1) * sm_scale
            k = (k / 2).sub_(mean / 2)
        v, v_scale = _fitting_float16(v, 2)
        v_scale = v_scale.squeeze(2).contiguous()
        q_int8, q_scale, k_int8, k_scale = per_block_int8(q, k, sm_scale=sm_scale)
        k_scale = _limited(k_scale, q_scale, shape, smooth_k)
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


def _mean(k: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the mean of K over its tokens. Where the sum is infinite any other number does."""
    return k.mean(dim=tokens, keepdim=True).nan_to_num()


def _limited(k_scale: torch.Tensor, q_scale: torch.Tensor, shape: _Shape, halved: bool) -> torch.Tensor:
    """Return scales of K with which no product with Q is too large for the kernels; `halved`: K less its mean was."""
    largest = _LARGEST_LOGIT / (127 * 127 * shape.head_dim) / q_scale.amax()
    return torch.minimum(k_scale * 2 if halved else k_scale, largest)


def _fitting_float16(v: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return V as float16, and the powers of two that channels were divided by where they would not fit."""
    largest = v.abs().amax(dim=tokens, keepdim=True).float().clamp(min=1e-37)
    exponent = torch.log2(largest).floor() + 1
    too_small, too_large = largest < 2.0**-8, (exponent - math.log2(_SUMMED_IN_FLOAT16)).clamp(min=0)
    scale = torch.exp2(torch.where(too_small, exponent, too_large))
    return (v * (1 / scale)).to(torch.float16), scale


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: str | None) -> _Shape:
    """Return the sizes of Q, K and V; with no layout they are packed sequences, [tokens, heads, head_dim].

    Raises:
        ValueError: They do not fit together.
    """
    if layout is not None and layout not in _LAYOUTS:
        _one_of("tensor_layout", layout, _LAYOUTS)
    q_shape, k_shape, v_shape = q.shape, k.shape, v.shape
    dims = 3 if layout is None else 4
    if not len(q_shape) == len(k_shape) == len(v_shape) == dims:
        _disagree("q, k and v", q, k, v, f"each must have {dims} dimensions")
    heads, tokens = (1, 0) if layout is None else (1, 2) if layout == "HND" else (2, 1)
    if k_shape != v_shape:
        _disagree("v", q, k, v, "k and v must have one shape")
    if layout is not None and q_shape[0] != k_shape[0]:
        _disagree("k", q, k, v, "q and k must have one batch size")
    if q_shape[-1] != k_shape[-1]:
        _disagree("k", q, k, v, "q and k must have one head_dim")
    if not 1 <= q_shape[-1] <= 128:
        _disagree("q", q, k, v, f"head_dim is {q_shape[-1]}, and the kernels take 1 to 128")
    if (k_shape[heads] == 0 and q_shape[heads] > 0) or (k_shape[heads] and q_shape[heads] % k_shape[heads]):
        _disagree("k", q, k, v, "the number of heads of k must divide that of q")
    if k_shape[tokens] == 0 and 0 not in q_shape:
        _disagree("k", q, k, v, "there are no keys to attend to")
    dtype, device = q.dtype, q.device
    if dtype not in _TYPES or k.dtype != dtype or v.dtype != dtype:
        raise ValueError(
            f"q is {dtype}, k {k.dtype} and v {v.dtype}: all must be float16, or all bfloat16. (Cast them first.)"
        )
    if device.type != "cuda" or k.device != device or v.device != device:
        raise ValueError(f"q is on {device}, k on {k.device} and v on {v.device}: all must be on one CUDA device.")
    return _Shape(
        1 if layout is None else q_shape[0], q_shape[heads], k_shape[heads], q_shape[tokens], k_shape[tokens],
        q_shape[-1],
    )  # fmt: skip


def _check_mask(mask: torch.Tensor, shape: _Shape, q: torch.Tensor, is_causal: bool) -> torch.Tensor | None:
    """Return a mask that is broadcast to what it masks, and None for one that masks nothing."""
    if is_causal:
        raise ValueError("attn_mask can't be combined with is_causal=True: put the causal part into the mask.")
    if mask.dtype not in (torch.bool, q.dtype, torch.float32):
        raise ValueError(f"attn_mask is {mask.dtype}: expected bool, float32 or {q.dtype}, the type of q.")
    if mask.device != q.device:
        raise ValueError(f"attn_mask is on {mask.device} and q on {q.device}.")
    target = (shape.batch, shape.q_heads, shape.q_tokens, shape.kv_tokens)
    try:
        expanded = mask.expand(target)
    except RuntimeError:
        raise ValueError(
            f"attn_mask has shape {tuple(mask.shape)}, which does not broadcast to {target}, that of QK^T."
        ) from None
    return None if mask.dtype == torch.bool and _is_true_throughout(mask) else expanded


# What was found of the masks that are alive: clients pass one mask to many layers and steps.
_true_throughout: dict[int, tuple[weakref.ref, int, bool]] = {}


def _is_true_throughout(mask: torch.Tensor) -> bool:
    """Return whether a mask masks nothing; False where the GPU can't be asked."""
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return False
    if mask.is_inference():  # it does not count its changes, so what was found may no longer hold
        return bool(mask.all())
    key, version = id(mask), mask._version
    known = _true_throughout.get(key)
    if known is None or known[0]() is not mask or known[1] != version:
        forget = weakref.ref(mask, lambda _: _true_throughout.pop(key, None))
        known = _true_throughout[key] = (forget, version, bool(mask.all()))
    return known[2]


def _check_lengths(name: str, ends: list[int], tokens: int, longest: int) -> None:
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    _need(ends[0] == 0, f"cu_seqlens_{name} begins with {ends[0]}, not 0.")
    _need(min(lengths, default=0) >= 0, f"cu_seqlens_{name} decreases: {ends}.")
    _need(ends[-1] <= tokens, f"cu_seqlens_{name} ends at {ends[-1]}, and {name} has {tokens} tokens.")
    _need(
        max(lengths, default=0) <= longest,
        f"max_seqlen_{name} is {longest}, and a sequence of {name} has {max(lengths, default=0)} tokens.",
    )


def _scale_of(sm_scale: float | None, scale: float | None, q: torch.Tensor) -> float:
    """Return the softmax scale, whichever name it came by."""
    if sm_scale is not None and scale is not None and sm_scale != scale:
        raise ValueError(f"sm_scale is {sm_scale} and scale is {scale}: give one of them.")
    if sm_scale is None:
        sm_scale = scale
    if sm_scale is None:
        return q.size(-1) ** -0.5 if q.size(-1) else 1.0
    if not math.isfinite(sm_scale):
        raise ValueError(f"sm_scale is {sm_scale}: expected a finite number.")
    return float(sm_scale)


def _refuse(function: Callable[..., Any], unknown: dict[str, Any], dropout_p: float) -> None:
    if dropout_p:
        raise ValueError(f"dropout_p is {dropout_p}: there is no dropout here; pass 0.")
    for name in unknown:
        names = [*function.__annotations__][:-2]  # without kwargs and return
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}."
        raise TypeError(f"{function.__name__}() has no argument {name!r}{hint}")


def _number(name: str, value: str, known: dict[str, int]) -> int:
    """Return the number that the operators have for a value."""
    if value not in known:
        _one_of(name, value, tuple(known))
    return known[value]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: expected {' or '.join(map(repr, known))}.")


def _enabled(enabled: bool, library: str) -> None:
    if not enabled:
        raise RuntimeError(f"This build has no {library}: none of its architectures has those kernels.")


def _smooth_v(smooth_v: bool, accumulated: str, with_means: str) -> bool:
    if smooth_v and accumulated != with_means:
        warnings.warn(f"smooth_v does nothing here: pv_accum_dtype is {accumulated!r}.", stacklevel=4)
    return bool(smooth_v) and accumulated == with_means


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _disagree(name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, why: str) -> NoReturn:
    raise ValueError(
        f"{name}: {why}. The shapes are q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}."
    )


class _NoGradient(torch.autograd.Function):
    """Ties the output to its inputs, so that `backward()` says that there is no gradient."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*inputs)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return (None, *(_fused.no_backward(gradients[0], tensor) for tensor in ctx.saved_tensors))
