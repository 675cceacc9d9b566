# SPDX-License-Identifier: Apache-2.0
"""SageAttention's functions: every argument is checked once, before anything runs on the GPU.

`sageattn` takes whatever torch's attention takes, and torch's function computes what our kernels can't, or not faster.
The functions that name a kernel compute with that or raise. One operator prepares Q, K and V (int8, and V as the kernel
wants it) and computes attention. Only functions that say so, and those that are given a mask, use Triton.
"""

import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from . import _arguments, _rule, _torch, _triton_kernels, _varlen
from ._arguments import Call
from .quant import per_block_int8 as per_block_int8_cuda  # noqa: F401  upstream's module has these names
from .quant import per_channel_fp8, sub_mean  # noqa: F401
from .quant import per_warp_int8 as per_warp_int8_cuda  # noqa: F401


def _optional(name: str) -> tuple[Any, Any, bool]:
    """Import a library's modules, if this build has it; one that does not load is another ImportError."""
    try:
        operators = importlib.import_module(f"{__package__}._qattn_{name}")
        return operators, importlib.import_module(f"{__package__}.{name}_compile"), True
    except ModuleNotFoundError:
        return None, None, False


_qattn_sm80, sm80_compile, SM80_ENABLED = _optional("sm80")
_qattn_sm89, sm89_compile, SM89_ENABLED = _optional("sm89")
_qattn_sm90, sm90_compile, SM90_ENABLED = _optional("sm90")

# Names that upstream's module has, imported at first use: `import sageattention` does not import Triton.
_TRITON = {
    "per_block_int8_triton": ("quant_per_block", "per_block_int8"),
    "per_thread_int8_triton": ("quant_per_thread", "per_thread_int8"),
    "attn_false": ("attn_qk_int8_per_block", "forward"),
    "attn_true": ("attn_qk_int8_per_block_causal", "forward"),
}

_GRANULARITIES = {"per_warp": 2, "per_thread": 3}  # of int8 scales, as the kernels number them
# "torch": sageattn() always takes torch's function; "sage": ours wherever they can compute. To look for a fault.
_FORCED = os.environ.get("SAGEATTENTION_KERNEL", "auto").strip().lower() or "auto"
if _FORCED not in ("auto", "torch", "sage"):
    warnings.warn(f"SAGEATTENTION_KERNEL is {_FORCED!r}: expected auto, torch or sage.", stacklevel=2)


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


def _architecture(device_index: int) -> str:
    major, minor = torch.cuda.get_device_capability(device_index)
    return f"sm{major}{minor}"


def _exporting() -> bool:
    return bool(torch.compiler.is_exporting())


# torch.compile takes their results for constants. This is what torch.compiler.assume_constant_result does, whose call
# would import torch._dynamo, which takes seconds. (It takes is_exporting() itself for True.)
_architecture._dynamo_marked_constant = True  # type: ignore[attr-defined]
_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Kernel(NamedTuple):
    """A kernel, and what its options are."""

    function: str
    library: str  # "": in Triton
    operator: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None  # None: not in this build, or in Triton
    accumulators: dict[str, int]  # values of pv_accum_dtype, as the operator numbers them
    with_means: str  # the one with which smooth_v does something


_attention80, _attention89, _attention90 = (
    getattr(module, "attention", None) for module in (_qattn_sm80, _qattn_sm89, _qattn_sm90)
)
_F16_SUMS = {"fp32": 0, "fp16+fp32": 1, "fp16": 2}
_F8_SUMS = {"fp32": 0, "fp32+fp32": 1, "fp32+fp16": 2}
_FP16 = _Kernel("sageattn_qk_int8_pv_fp16_cuda", "_qattn_sm80", _attention80, _F16_SUMS, "fp16")
_FP8 = _Kernel("sageattn_qk_int8_pv_fp8_cuda", "_qattn_sm89", _attention89, _F8_SUMS, "fp32")
_FP8_SM90 = _Kernel("sageattn_qk_int8_pv_fp8_cuda_sm90", "_qattn_sm90", _attention90, {"fp32+fp32": 1}, "")
_TRITON_FP16 = _Kernel("sageattn_qk_int8_pv_fp16_triton", "", None, {}, "")

# What sageattn() calls on which GPU, and the options that are best there.
_FOR_GPU = {
    "sm80": (_FP16, "per_thread", "fp32"),
    # Triton's kernel is reported to be faster there; this one is taken where Triton can't be.
    "sm86": (_FP16, "per_thread", "fp16+fp32"),
    "sm89": (_FP8, "per_thread", "fp32+fp16"),
    "sm90": (_FP8_SM90, "per_thread", "fp32+fp32"),
    # Its float32 sums are exact, and per_warp is as fast.
    "sm120": (_FP8, "per_warp", "fp32+fp16"),
    "sm121": (_FP8, "per_warp", "fp32+fp16"),
}


def _for_gpu(architecture: str) -> tuple[_Kernel, str, str] | None:
    """Return the kernel for a GPU and its options; None where there is none.

    A GPU that is newer than the wheel has no machine code in it: the driver compiles the PTX for 8.9.
    """
    number = int(architecture[2:])
    return _FOR_GPU.get(architecture) or _FOR_GPU.get(
        "sm89" if number >= 100 else "sm86" if number > 80 else ""
    )


class Choice(NamedTuple):
    """The name of the function that computes a call, or "torch", and why it does."""

    kernel: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kernel}: {self.reason}"


class Plan(NamedTuple):
    """What computes a call (no kernel: torch's function), and why."""

    kernel: _Kernel | None
    reason: str
    granularity: int = 0
    accumulator: int = 0
    smooths_v: bool = False
    advice: str = ""  # the kind of what the caller could change to get our kernels
    derivative: str = ""
    sizes_decide: bool = False  # torch's function is faster, whatever else the call has


def _by_architecture(
    layout: str, kind: str, lse: bool, granularity: str | None, accumulator: str | None, properties: Any
) -> Plan:
    """Choose by what tensors are, not by what is in them."""
    sizes = _arguments.sizes_of(layout, properties)
    if isinstance(sizes, str):
        return Plan(None, sizes, advice=sizes[:12])  # "q is on cuda", "q: head_dim", ...
    if 0 in (sizes.batch, sizes.q_heads, sizes.q_tokens):
        return Plan(None, "there is nothing to compute")
    index = properties[6].index
    architecture = _architecture(index)
    chosen = _for_gpu(architecture)
    if chosen is None:
        return Plan(None, f"there is no kernel for this GPU ({architecture})", advice="architecture")
    kernel, best_granularity, best_accumulator = chosen
    masked, asked = kind in ("bool", "float"), granularity is not None or accumulator is not None
    if masked and not _triton_kernels.has_triton():
        return Plan(None, "a mask needs Triton and a C compiler, which are not installed", advice="triton")
    if masked or (chosen is _FOR_GPU["sm86"] and not asked and _triton_kernels.has_triton()):
        kernel = _TRITON_FP16
    elif kernel.operator is None:
        reason = f"this build has no {kernel.library}, which holds the kernel for this GPU ({architecture})"
        return Plan(None, reason, advice="library")
    # An exported program can't branch on a length.
    if not (asked or lse or _FORCED == "sage" or _exporting()) and _rule.torch_is_faster(index, kind, sizes):
        return Plan(None, "torch's attention is faster for these sizes on this GPU", sizes_decide=True)
    reason = f"it is the kernel for this GPU ({architecture})"
    if kernel is _TRITON_FP16:
        return Plan(kernel, reason)
    accumulator = accumulator or best_accumulator
    return Plan(
        kernel,
        reason,
        _arguments.number("qk_quant_gran", granularity or best_granularity, _GRANULARITIES),
        _arguments.number("pv_accum_dtype", accumulator, kernel.accumulators),
        accumulator == kernel.with_means,
    )


_remembered = functools.lru_cache(1024)(_by_architecture)


def plan_of(call: Call, qk_quant_gran: str | None = None, pv_accum_dtype: str | None = None) -> Plan:
    """Plan a call: by our kernel for the GPU where that can compute it and is faster, else by torch's function."""
    q, k, v, tensor_layout, is_causal, _, return_lse, attn_mask, dropout_p, _, _ = call
    derivative = _torch.derivative_of(q, k, v, attn_mask)
    if _FORCED == "torch":
        return Plan(None, "the environment has SAGEATTENTION_KERNEL=torch", derivative=derivative)
    if any(map(_arguments.is_foreign, (q, k, v))):
        reason = "q, k or v is nested or distributed, of which the kernels know nothing"
        return Plan(None, reason, advice="kind", derivative=derivative)
    if derivative:
        reason = f"a {derivative} is asked for; under torch.no_grad() our kernels compute"
        return Plan(None, reason, advice="gradient", derivative=derivative)
    if dropout_p:
        return Plan(None, f"dropout_p is {dropout_p}, and the kernels have no dropout")
    kind, properties = "causal" if is_causal else "full", _arguments.properties(q, k, v)
    if attn_mask is not None:
        kind = "bool" if attn_mask.dtype == torch.bool else "float"
        sizes = _arguments.sizes_of(tensor_layout, properties)
        obstacle = "" if isinstance(sizes, str) else _arguments.mask_obstacle(call, sizes)
        if obstacle:
            return Plan(None, obstacle, advice="attn_mask")
    asked = (tensor_layout, kind, return_lse, qk_quant_gran, pv_accum_dtype, properties)
    if torch.compiler.is_compiling():
        return _by_architecture(*asked)
    try:
        return _remembered(*asked)
    except TypeError:  # sizes are symbols, which have no hash
        return _by_architecture(*asked)


def compute(plan: Plan, call: Call) -> Any:
    """Call the planned kernel's operator, with inputs that were checked; in Triton if it has none, or with a mask."""
    assert plan.kernel is not None
    q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, _, smooth_k, smooth_v = call
    if plan.kernel.operator is None or attn_mask is not None:
        output, lse = _triton_kernels.attention(call)
    else:
        output, lse = plan.kernel.operator(
            q, k, v, 0 if tensor_layout == "NHD" else 1, int(is_causal), plan.granularity, sm_scale, int(smooth_k),
            int(return_lse), plan.accumulator, int(plan.smooths_v and smooth_v),
        )  # fmt: skip
    head_dim = q.size(-1)
    if head_dim != output.size(-1):
        output = output[..., :head_dim].contiguous()
    return (output, lse) if return_lse else output


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
    """Compute attention, with the kernel for the GPU of `q` where that can and is faster, else with torch's function.

    Our kernels take float16 and bfloat16 on a CUDA device with a head dim of at most 128; `explain` says what a call
    takes. What they can't compute, gradients among it, torch's function does.

    Args:
        q: `[batch, heads, tokens, head_dim]` for the layout "HND", `[batch, tokens, heads, head_dim]` for "NHD"; any
            strides. k and v likewise, with a number of heads that divides that of `q`.
        is_causal: Query i attends to keys 0 to i, wherever the two lengths differ, as in torch's
            scaled_dot_product_attention: the mask starts at the top left.
        sm_scale: Factor of QK^T; None is `head_dim ** -0.5`. `scale` and `softmax_scale` are other names for it.
        attn_mask: bool (True: attend) or a float to add to QK^T, of a shape that broadcasts to
            `[batch, heads, tokens of q, tokens of k]`. Our kernel for it is in Triton.
        smooth_k: Does nothing: the mean of K over its tokens is always subtracted, which changes no result.
        smooth_v: Likewise for V, where the kernel has it: `pv_accum_dtype` "fp16" or "fp32" of the functions below.
        qk_quant_gran: "per_warp" or "per_thread"; None is the kernel's default.
        pv_accum_dtype: How the product with V is summed, as the function for this GPU names it; None is its default.
        enable_gqa: Accepted for callers of torch's function: heads are shared wherever their numbers differ.
        **kwargs: Names of other libraries are accepted where their value asks for nothing.

    Returns:
        The output, of the shape and type of `q` and contiguous; with `return_lse` a tuple of it and the logsumexp of
        each row of QK^T * sm_scale, float32 `[batch, heads, tokens]`.

    Raises:
        ValueError: An argument has a value that no function can honour, or shapes, types or devices disagree.
        TypeError: An unknown keyword.
    """
    if kwargs:
        is_causal, sm_scale = _arguments.keywords(sageattn, kwargs, is_causal, sm_scale)
    _arguments.check_layout(tensor_layout)
    is_causal, signature = bool(is_causal), ()
    if attn_mask is None and not dropout_p:
        asked = (tensor_layout, is_causal, sm_scale, scale, return_lse, qk_quant_gran, pv_accum_dtype)
        signature, known = _torch.look_up(q, k, v, *asked)
        # Autocast would cast for torch's function, and tangents need another one.
        if known and not torch.is_autocast_enabled("cuda") and _torch.forward_ad._current_level < 0:
            try:
                given = scale if sm_scale is None else sm_scale
                return _torch.as_it_is(q, k, v, tensor_layout, is_causal, given)
            except (RuntimeError, TypeError):
                pass  # below it is raised as ever
    call = Call(
        q, k, v, tensor_layout, is_causal, _arguments.scale_of(sm_scale, scale, q), bool(return_lse), attn_mask,
        dropout_p or 0.0, True, bool(smooth_v),
    )  # fmt: skip
    plan = plan_of(call, qk_quant_gran, pv_accum_dtype)
    if plan.advice:
        _arguments.warn_once(plan.advice, plan.reason)
    if plan.kernel is not None:
        return compute(plan, call)
    if plan.sizes_decide:
        _torch.remember(signature, call)
    try:
        return _torch.attention(call, plan.derivative)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        mask = "" if attn_mask is None else f"; attn_mask is {attn_mask.dtype} of {tuple(attn_mask.shape)}"
        raise ValueError(f"{plan.reason} (torch's scaled_dot_product_attention: {error}{mask})") from error


def explain(*arguments: Any, **keywords: Any) -> Choice:
    """Return what computes a call of `sageattn` with these arguments, and why, without computing."""
    bound = inspect.signature(sageattn).bind(*arguments, **keywords)
    bound.apply_defaults()
    of = bound.arguments
    is_causal, _ = _arguments.keywords(sageattn, of["kwargs"], of["is_causal"], of["sm_scale"])
    _arguments.check_layout(of["tensor_layout"])
    call = Call(
        of["q"], of["k"], of["v"], of["tensor_layout"], bool(is_causal), 1.0, bool(of["return_lse"]), of["attn_mask"],
        of["dropout_p"] or 0.0,
    )  # fmt: skip
    plan = plan_of(call, of["qk_quant_gran"], of["pv_accum_dtype"])
    return Choice(plan.kernel.function if plan.kernel is not None else "torch", plan.reason)


def _named(
    kernel: _Kernel,
    function: Callable[..., Any],
    call: Call,
    scale: float | None,
    kwargs: dict[str, Any],
    qk_quant_gran: str = "",
    pv_accum_dtype: str = "",
) -> Any:
    """Compute with one kernel, or raise; the call is as the user gave it."""
    granularity = accumulator = 0
    if kernel.library:
        if kernel.operator is None:
            message = f"This build has no {kernel.library}: none of its architectures has those kernels."
            raise RuntimeError(message)
        granularity = _arguments.number("qk_quant_gran", qk_quant_gran, _GRANULARITIES)
        accumulator = _arguments.number("pv_accum_dtype", pv_accum_dtype, kernel.accumulators)
    q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, dropout_p, smooth_k, smooth_v = call
    smooth_v = smooth_v or kwargs.pop("smooth_v", False)
    if smooth_v and pv_accum_dtype != kernel.with_means:
        warnings.warn(f"smooth_v does nothing here: pv_accum_dtype is {pv_accum_dtype!r}.", stacklevel=3)
        smooth_v = False
    if kwargs:
        is_causal, sm_scale = _arguments.keywords(function, kwargs, is_causal, sm_scale)
    if dropout_p:
        raise ValueError(f"dropout_p is {dropout_p}: there is no dropout here; pass 0.")
    _arguments.check_layout(tensor_layout)
    sm_scale = _arguments.scale_of(sm_scale, scale, q)
    if any(map(_arguments.is_foreign, (q, k, v))):
        raise ValueError("q, k or v is nested or distributed, of which the kernels know nothing.")
    sizes = _arguments.sizes_of(tensor_layout, _arguments.properties(q, k, v))
    if isinstance(sizes, str):
        raise ValueError(sizes)
    derivative = _torch.derivative_of(q, k, v, attn_mask)
    if derivative == "tangent":
        message = "The kernels have no forward-mode derivative: sageattn() takes torch's function for it."
        raise RuntimeError(message)
    tied = (q, k, v) if attn_mask is None or not attn_mask.requires_grad else (q, k, v, attn_mask)
    if derivative:
        q, k, v = q.detach(), k.detach(), v.detach()
        attn_mask = None if attn_mask is None else attn_mask.detach()
    call = Call(
        q, k, v, tensor_layout, bool(is_causal), sm_scale, bool(return_lse), attn_mask, 0.0, bool(smooth_k),
        bool(smooth_v),
    )  # fmt: skip
    obstacle = "" if attn_mask is None else _arguments.mask_obstacle(call, sizes)
    if obstacle:
        raise ValueError(obstacle)
    if 0 in (sizes.batch, sizes.q_heads, sizes.q_tokens):
        return _torch.attention(call)
    result = compute(Plan(kernel, "", granularity, accumulator, True), call)
    if not derivative:
        return result
    output, lse = result if return_lse else (result, None)
    output = _torch.NoDerivative.apply(output, *tied)
    return (output, _torch.NoDerivative.apply(lse, *tied)) if return_lse else output


def _function_of(kernel: _Kernel, accumulator: str, doc: str) -> Callable[..., Any]:
    """Return the public function of a kernel that can subtract V's mean."""

    def function(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        tensor_layout: str = "HND",
        is_causal: bool = False,
        qk_quant_gran: str = "per_thread",
        sm_scale: float | None = None,
        pv_accum_dtype: str = accumulator,
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
        call = Call(
            q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, dropout_p, smooth_k, smooth_v
        )  # fmt: skip
        return _named(kernel, function, call, scale, kwargs, qk_quant_gran, pv_accum_dtype)

    function.__name__ = function.__qualname__ = kernel.function
    function.__doc__ = f"""{doc}

    Arguments are those of `sageattn`, but `smooth_k=False` leaves K its mean, which makes int8 less accurate. What the
    kernel can't compute raises ValueError, and there is no gradient. `smooth_v` is for pv_accum_dtype
    {kernel.with_means!r} only; otherwise there is a warning, and no need.
    """
    return function


sageattn_qk_int8_pv_fp16_cuda = _function_of(
    _FP16,
    "fp32",
    """Compute attention with int8 QK^T and float16 PV, on compute capability 8.0 and later.

    pv_accum_dtype: "fp32"; "fp16+fp32", which sums 64 products in float16 and those sums in float32; or "fp16".""",
)
sageattn_qk_int8_pv_fp8_cuda = _function_of(
    _FP8,
    "fp32+fp16",
    """Compute attention with int8 QK^T and float8 PV, on compute capability 8.9 and later.

    pv_accum_dtype: "fp32+fp16", which sums in float16 inside an instruction; "fp32+fp32"; or "fp32", whose sums have 22
    bits on 8.9 and 9.0.""",
)


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

    Arguments are those of `sageattn`, but `smooth_k=False` leaves K its mean, which makes int8 less accurate. What the
    kernel can't compute raises ValueError, and there is no gradient.

    Args:
        pv_accum_dtype: "fp32+fp32".
    """
    call = Call(q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, dropout_p, smooth_k)
    named = sageattn_qk_int8_pv_fp8_cuda_sm90
    return _named(_FP8_SM90, named, call, scale, kwargs, qk_quant_gran, pv_accum_dtype)


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

    Arguments are those of `sageattn`, but `smooth_k=False` leaves K its mean, which makes int8 less accurate. What the
    kernel can't compute raises ValueError, and there is no gradient.

    Args:
        quantization_backend: "auto", "cuda" or "triton": this build's operator quantises for all of them.

    Raises:
        ImportError: Triton is not installed.
    """
    _arguments.number("quantization_backend", quantization_backend, {"auto": 0, "cuda": 1, "triton": 2})
    call = Call(q, k, v, tensor_layout, is_causal, sm_scale, return_lse, attn_mask, dropout_p, smooth_k)
    return _named(_TRITON_FP16, sageattn_qk_int8_pv_fp16_triton, call, scale, kwargs, "", "in Triton")


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
    """Compute attention for sequences of different lengths that are packed one after the other.

    Sequence i of Q is `q[cu_seqlens_q[i]:cu_seqlens_q[i + 1]]`, and likewise for K and V. The lengths are read back
    from the GPU and checked, so the call waits for it; under torch.compile they are not. One launch in Triton computes
    many sequences; few long ones, and what only torch's function can compute, are computed one by one by `sageattn`.

    Args:
        q: `[tokens, heads, head_dim]`; k and v likewise, with a number of heads that divides that of `q`.
        cu_seqlens_q: Where sequences begin and end: int32 or int64 `[sequences + 1]`, from 0 up.
        max_seqlen_q: At least the length of the longest sequence of `q`.
        is_causal: In each sequence, query i attends to keys 0 to i.
        smooth_k: Does nothing: the mean of K is always subtracted, which changes no result.
        **kwargs: `tensor_layout="NHD"`; other names where their value asks for nothing.

    Returns:
        The output, of the shape and type of `q`; zero for tokens that are in no sequence.

    Raises:
        ValueError: An argument has a value that can't be honoured, or shapes, types or devices disagree.
        TypeError: An unknown keyword.
        ImportError: Triton is needed and not installed.
    """
    layout = kwargs.pop("tensor_layout", None)
    if layout not in (None, "NHD"):
        raise ValueError(
            f"tensor_layout is {layout!r}: packed sequences are [tokens, heads, head_dim], which is 'NHD'."
        )
    if kwargs:
        is_causal, sm_scale = _arguments.keywords(sageattn_varlen, kwargs, is_causal, sm_scale)
    sm_scale = _arguments.scale_of(sm_scale, scale, q)
    call = Call(q, k, v, "NHD", bool(is_causal), sm_scale, False, None, dropout_p or 0.0)
    packed = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return _varlen.attention(sageattn, call, packed, _FORCED)
