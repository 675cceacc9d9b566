"""A fake sageattention on the CPU: the same functions and the same roundings, and faults on demand.

Q and K are rotated and rounded to int8 in blocks, P and V to fp16 or fp8, as the kernels do, so its errors
are those of a right kernel. The environment variable FAKE_FAULT names one fault that it shall have.
"""

import difflib
import itertools
import math
import os
import warnings
from types import SimpleNamespace

import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

__version__ = "2.2.0"
LOG2_E = 1.4426950408889634
POISON = float("nan")
SDPA = torch._C._nn.scaled_dot_product_attention
warned = set()


def _fault(name):
    return os.environ.get("FAKE_FAULT", "") == name


def _int8(x, block):
    """Round ``[b, h, tokens, d]`` to int8 with one scale for each block of tokens."""
    parts = []
    for part in x.split(block, dim=2):
        scale = part.abs().amax(dim=(2, 3), keepdim=True).clamp_min(1e-7) / 127
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, dim=2)


def _fp8(x):
    return x.to(torch.float8_e4m3fn).float()


def _rotated(x):
    """Multiply by a Hadamard matrix with signs, which spreads outliers and changes no product."""
    if _fault("no-rotation"):
        return x
    size = 64 if x.shape[-1] <= 64 else 128
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    signs = torch.tensor([-1.0 if number * 2654435761 >> 16 & 1 else 1.0 for number in range(size)])
    return torch.nn.functional.pad(x, (0, size - x.shape[-1])) @ (signs[:, None] * matrix / size**0.5)


@torch.autocast("cpu", enabled=False)
def _forward(q, k, v, *, causal, fp8, smooth_k, scale, mask):
    """``[batch, heads, tokens, head_dim]`` in fp32; returns the output and the natural logsumexp."""
    groups = q.shape[1] // k.shape[1]
    mean = k.mean(dim=2, keepdim=True) if smooth_k else torch.zeros_like(k[:, :, :1])
    if mask is not None and mask.dtype == torch.bool and mask.shape[-2] == 1 and mask.shape[-3] == 1:
        k = k * mask.expand(*mask.shape[:-1], k.shape[2]).transpose(2, 3)
    lse_of_mean = (q * (mean.repeat_interleave(groups, dim=1))).sum(-1) * scale
    k = _int8(_rotated(k - mean), 64)
    q = _int8(_rotated(q), 128)
    repeat = (lambda x: x.repeat(1, groups, 1, 1)) if _fault("groups") else None
    k, v = ((repeat or (lambda x: x.repeat_interleave(groups, dim=1)))(x) for x in (k, v))
    largest = v.abs().amax(dim=2, keepdim=True).clamp_min(1e-30)
    if fp8:
        v = _fp8((v / largest * 448).clamp(-448, 448)) / 448
    elif _fault("large-v"):
        v, largest = v.half().float(), 1.0
    else:
        v = v / largest
    out = torch.empty(*q.shape[:3], v.shape[-1])
    lse = torch.empty(q.shape[:-1])
    for start in range(0, q.shape[2], 512):
        rows = slice(start, start + 512)
        scores = (q[:, :, rows] @ k.transpose(2, 3) * scale).nan_to_num(0.0)
        if causal and not _fault("causal"):
            index = torch.arange(start, start + scores.shape[2])
            scores = scores.masked_fill(torch.arange(k.shape[2]) > index[:, None], float("-inf"))
        if mask is not None:
            part = mask.expand(*scores.shape[:2], q.shape[2], -1)[:, :, rows]
            scores = scores.masked_fill(~part, float("-inf")) if mask.dtype == torch.bool else scores + part
        top = scores.amax(dim=-1, keepdim=True).clamp_min(-1e30)
        p = (scores - top).exp()
        total = p.sum(dim=-1, keepdim=True)
        p = _fp8(p * 448) / 448 if fp8 else p.half().float()
        out[:, :, rows] = p @ v / total.clamp_min(1e-30)
        lse[:, :, rows] = (top + total.log()).squeeze(-1)
    out *= largest
    if not _fault("lse-without-mean"):
        lse += lse_of_mean
    if _fault("lse-base2"):
        lse = lse * LOG2_E
    if _fault("one-row"):
        out[:, -1, -1] = 0.5
    if _fault("tail") and q.shape[2] % 64:
        out[:, :, -(q.shape[2] % 64) :] = POISON
    if _fault("one-head"):
        out[:, -1] = out[:, 0]
    if _fault("scale"):
        out *= 1.03
    return out, lse


def _tangent(*tensors):
    duals = [forward_ad.unpack_dual(x).tangent for x in tensors if forward_ad._current_level >= 0]
    return any(tangent is not None for tangent in duals)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, *inputs):
        return out.view_as(out)

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("the fake has no backward")


def _need(holds, message):
    if not holds and not _fault("takes-anything"):
        raise ValueError(message)


def _check(q, k, v, mask, is_causal, layout):
    _need(layout in ("HND", "NHD"), f"tensor_layout is {layout!r}: expected 'HND' or 'NHD'.")
    shapes = f"The shapes are q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}."
    _need(q.dim() == k.dim() == v.dim() == 4, f"q, k and v need 4 dimensions. {shapes}")
    heads, tokens = (1, 2) if layout == "HND" else (2, 1)
    _need(k.shape == v.shape, f"v is not like k. {shapes}")
    _need(q.shape[0] == k.shape[0], f"k has another batch. {shapes}")
    _need(q.shape[-1] == k.shape[-1], f"k has another head_dim. {shapes}")
    _need(1 <= q.shape[-1] <= 128, f"head_dim is {q.shape[-1]}. {shapes}")
    _need(q.shape[heads] % k.shape[heads] == 0, f"the heads of k do not divide those of q. {shapes}")
    _need(k.shape[tokens] > 0 or q.numel() == 0, f"k has no tokens. {shapes}")
    dtypes = f"q is {q.dtype}, k {k.dtype} and v {v.dtype}."
    _need(q.dtype in (torch.float16, torch.bfloat16) and q.dtype == k.dtype == v.dtype, dtypes)
    if mask is not None:
        _need(not is_causal, "attn_mask and is_causal exclude each other.")
        _need(mask.dtype in (torch.bool, torch.float32, q.dtype), f"attn_mask is {mask.dtype}.")
        right = all(
            a in (1, b) for a, b in zip(mask.shape[:-3:-1], (k.shape[tokens], q.shape[tokens]), strict=True)
        )
        _need(right, f"attn_mask is {tuple(mask.shape)}.")


HARMLESS = {"pv_accum_dtype", "qk_quant_gran", "smooth_v", "quantization_backend"}


def _keywords(known, unknown, sm_scale, scale):
    """Return the scale, by whichever name; refuse what asks for something unknown."""
    scales = {one for one in (sm_scale, scale, unknown.pop("softmax_scale", None)) if one is not None}
    if _fault("swallows"):
        return None
    if len(scales) > 1 or not all(map(math.isfinite, scales)):
        raise ValueError(f"sm_scale is {sm_scale}, scale is {scale}")
    for name in set(unknown) - HARMLESS:
        value = unknown[name]
        if isinstance(value, torch.Tensor) or value not in (None, False, 0, (-1, -1), [-1, -1]):
            raise TypeError(f"no argument {name!r}; did you mean {difflib.get_close_matches(name, known, 1)}")
    return next(iter(scales), None)


def _function(fp8):
    def function(
        q,
        k,
        v,
        tensor_layout="HND",
        is_causal=False,
        sm_scale=None,
        return_lse=False,
        *,
        attn_mask=None,
        smooth_k=True,
        scale=None,
        dropout_p=0.0,
        enable_gqa=True,
        **unknown,
    ):
        is_causal = is_causal or unknown.pop("causal", False)
        sm_scale = _keywords(function.__code__.co_varnames, unknown, sm_scale, scale)
        _need(not dropout_p, f"dropout_p is {dropout_p}")
        _check(q, k, v, attn_mask, is_causal, tensor_layout)
        if _fault("swallows"):
            attn_mask, smooth_k = None, True
        bias = () if attn_mask is None else (attn_mask,)
        inputs = q, k, v, *bias
        if bias:
            attn_mask = attn_mask.detach()
        if _tangent(*inputs) and not _fault("silent-gradient"):
            raise RuntimeError("the fake has no forward-mode derivative")
        q, k, v = q.detach(), k.detach(), v.detach()
        if _fault("abort") and q.shape[-1] == 96:
            os.abort()
        if _fault("raise") and q.shape[-1] == 96:
            raise RuntimeError("the fake was told to raise")
        if _fault("unwritten"):
            out = torch.full(q.shape, POISON, dtype=q.dtype)
            return (out, torch.full(q.shape[:3], POISON)) if return_lse else out
        if _fault("writes-input"):
            k.sub_(0)
            k[..., 0] += 1e-3 + k[..., 0].abs()
        swap = tensor_layout == "NHD"
        tensors = (x.transpose(1, 2).float() if swap else x.float() for x in (q, k, v))
        factor = max(q.shape[-1], 1) ** -0.5 if sm_scale is None else sm_scale
        smooth_k = smooth_k and not _fault("no-smoothing")
        if q.numel():
            out, lse = _forward(
                *tensors, causal=is_causal, fp8=fp8, smooth_k=smooth_k, scale=factor, mask=attn_mask
            )
            most = torch.finfo(q.dtype).max
            out = (out.transpose(1, 2) if swap else out).clamp(-most, most).to(q.dtype).contiguous()
        else:
            out, lse = torch.empty_like(q), torch.empty(q.shape[:3])
        needed = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        if needed and not _fault("silent-gradient"):
            out = _NoGradient.apply(out, *inputs)
        return (out, lse) if return_lse else out

    return function


sageattn_qk_int8_pv_fp8_cuda = _function(fp8=True)
sageattn_qk_int8_pv_fp8_cuda_sm90 = sageattn_qk_int8_pv_fp8_cuda
sageattn_qk_int8_pv_fp16_triton = _function(fp8=False)
sageattn_qk_int8_pv_fp16_cuda = sageattn_qk_int8_pv_fp16_triton


def explain(q, k, v, tensor_layout="HND", is_causal=False, attn_mask=None, dropout_p=0.0, **rest):
    """Say which function computes a call, and why."""
    reason = ""
    if os.environ.get("SAGEATTENTION_KERNEL") == "torch":
        reason = "SAGEATTENTION_KERNEL is torch"
    elif torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, attn_mask)):
        reason = "a gradient is needed"
    elif _tangent(q, k, v):
        reason = "a tangent is needed"
    elif q.dtype not in (torch.float16, torch.bfloat16):
        reason = f"q is {q.dtype}"
    elif q.dim() != 4 or q.shape[-1] > 128 or v.shape[-1] != q.shape[-1]:
        reason = "the shapes are not those of a kernel"
    elif dropout_p or (attn_mask is not None and is_causal):
        reason = "dropout, or a mask with is_causal"
    kernel = "torch" if reason else "sageattn_qk_int8_pv_fp8_cuda"
    return SimpleNamespace(kernel=kernel, reason=reason or "it can compute this")


def sageattn(
    q,
    k,
    v,
    tensor_layout="HND",
    is_causal=False,
    sm_scale=None,
    return_lse=False,
    *,
    smooth_k=True,
    attn_mask=None,
    scale=None,
    dropout_p=0.0,
    enable_gqa=True,
    **unknown,
):
    """What any function takes, here or in torch."""
    is_causal = bool(is_causal or unknown.pop("causal", False))
    if return_lse and hasattr(attn_mask, "_materialize"):
        attn_mask = attn_mask._materialize(q.device)
    if q.is_nested or type(attn_mask) not in (type(None), torch.Tensor):
        return SDPA(q, k, v, attn_mask=attn_mask)
    sm_scale = _keywords(sageattn.__code__.co_varnames, unknown, sm_scale, scale)
    order = "scaled_dot_product_attention has torch's order"
    _need(
        tensor_layout in ("HND", "NHD"),
        f"tensor_layout is {tensor_layout!r}: expected 'HND' or 'NHD'; {order}",
    )
    rest = {"is_causal": is_causal, "attn_mask": attn_mask, "dropout_p": dropout_p}
    if _fault("refuses") or explain(q, k, v, tensor_layout, **rest).kernel != "torch":
        layout = {"tensor_layout": tensor_layout, "sm_scale": sm_scale, "return_lse": return_lse}
        return sageattn_qk_int8_pv_fp8_cuda(q, k, v, **layout, **rest, scale=sm_scale)
    if q.dtype == torch.float32 and "float32" not in warned:
        warned.add("float32")
        warnings.warn("float32 is computed by torch: cast to float16", stacklevel=2)
    swap = tensor_layout == "NHD"
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v)) if swap else (q, k, v)
    shapes = f"q, k and v are {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
    _need(q.shape[:-3] == k.shape[:-3], f"k has another batch: {shapes}")
    _need(q.shape[-1] == k.shape[-1] > 0, f"k has another head_dim, or none: {shapes}")
    _need(k.shape[:-1] == v.shape[:-1], f"v is not like k: {shapes}")
    if attn_mask is not None and is_causal:
        causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        attn_mask = (
            attn_mask & causal if attn_mask.dtype == torch.bool else attn_mask.where(causal, -math.inf)
        )
        is_causal = False
    shared = q.dim() > 2 and q.shape[-3] != k.shape[-3]
    sdpa = SDPA
    if _tangent(q, k, v):
        sdpa = lambda *x, **y: torch.ops.aten._scaled_dot_product_attention_math(*x, **y)[0]  # noqa: E731
    out = sdpa(q, k, v, attn_mask, dropout_p, is_causal, scale=sm_scale, enable_gqa=shared)
    if _fault("wrong-torch"):
        out = out * 1.1
    out = out.transpose(-3, -2).contiguous() if swap else out.contiguous()
    if not return_lse:
        return out
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    scores = q.float() @ k.float().transpose(-2, -1) * (q.shape[-1] ** -0.5 if sm_scale is None else sm_scale)
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return out, scores.logsumexp(-1)


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """With torch's signature."""
    rest = {"attn_mask": attn_mask, "dropout_p": dropout_p, "scale": scale}
    return sageattn(query, key, value, is_causal=is_causal, enable_gqa=enable_gqa, **rest)


class patched(TorchFunctionMode):
    """A whole model with this attention."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is SDPA and not _fault("not-patched"):
            function = scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def _check_starts(name, starts, tokens, longest):
    _need(starts.dtype in (torch.int32, torch.int64), f"cu_seqlens_{name} is {starts.dtype}")
    ends = starts.tolist()
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    _need(ends[0] == 0 and min(lengths) >= 0 and ends[-1] <= tokens, f"cu_seqlens_{name} is {ends}")
    _need(max(lengths) <= longest, f"max_seqlen_{name} is {longest}")


def sageattn_varlen(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    is_causal=False,
    sm_scale=None,
    smooth_k=True,
    *,
    scale=None,
    dropout_p=0.0,
    enable_gqa=True,
    **unknown,
):
    """Packed sequences, one after another."""
    shapes = f"The shapes are q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}."
    _need(q.dim() == k.dim() == v.dim() == 3, f"q, k and v need 3 dimensions. {shapes}")
    _need(k.shape == v.shape, f"v is not like k. {shapes}")
    _need(q.shape[-1] == k.shape[-1], f"k has another head_dim. {shapes}")
    _need(1 <= q.shape[-1] <= 128, f"head_dim is {q.shape[-1]}. {shapes}")
    _need(q.shape[1] % k.shape[1] == 0, f"the heads of k do not divide those of q. {shapes}")
    _need(k.shape[0] > 0 or q.numel() == 0, f"k has no tokens. {shapes}")
    _need(len(cu_seqlens_q) == len(cu_seqlens_k), "cu_seqlens_q and cu_seqlens_k differ")
    _check_starts("q", cu_seqlens_q, q.shape[0], max_seqlen_q)
    _check_starts("k", cu_seqlens_k, k.shape[0], max_seqlen_k)
    is_causal = is_causal or unknown.pop("causal", False)
    _need(unknown.pop("tensor_layout", "NHD") == "NHD", "tensor_layout is not NHD: packed sequences have one")
    _need(not dropout_p, f"dropout_p is {dropout_p}")
    sm_scale = _keywords(sageattn_varlen.__code__.co_varnames, unknown, sm_scale, scale)
    if not q.numel():
        return torch.empty_like(q)
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    differentiated = gradient or _tangent(q, k, v)
    function = sageattn if differentiated and not _fault("silent-gradient") else sageattn_qk_int8_pv_fp16_cuda
    parts = []
    for i in range(len(cu_seqlens_q) - 1):
        rows, keys = (slice(starts[i], starts[i + 1]) for starts in (cu_seqlens_q, cu_seqlens_k))
        tensors = [x.unsqueeze(0) for x in (q[rows], k[keys], v[keys])]
        if not tensors[0].numel():
            continue
        options = {"is_causal": is_causal, "sm_scale": sm_scale}
        parts.append(function(*tensors, tensor_layout="NHD", **options)[0])
    out = torch.zeros_like(q)
    with torch.autocast("cpu", enabled=False):
        return torch.cat([*parts, out[cu_seqlens_q[-1] :]])
