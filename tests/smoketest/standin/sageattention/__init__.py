"""A stand-in for sageattention on the CPU: the same functions and the same roundings, and faults on demand.

Q and K are rounded to int8 in blocks, P and V to fp16 or fp8, as the kernels do, so its errors are those of a
right kernel. The environment variable STANDIN_FAULT names one fault that it shall have.
"""

import difflib
import itertools
import math
import os

import torch

LOG2_E = 1.4426950408889634
POISON = float("nan")


def _fault(name):
    return os.environ.get("STANDIN_FAULT", "") == name


def _int8(x, block):
    """Round ``[b, h, tokens, d]`` to int8 with one scale for each block of tokens."""
    parts = []
    for part in x.split(block, dim=2):
        scale = part.abs().amax(dim=(2, 3), keepdim=True).clamp_min(1e-7) / 127
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, dim=2)


def _fp8(x):
    return x.to(torch.float8_e4m3fn).float()


def _forward(q, k, v, *, causal, fp8, smooth_k, scale, mask):
    """``[batch, heads, tokens, head_dim]`` in fp32; returns the output and the natural logsumexp."""
    groups = q.shape[1] // k.shape[1]
    mean = k.mean(dim=2, keepdim=True) if smooth_k else torch.zeros_like(k[:, :, :1])
    k = _int8(k - mean, 64)
    rounded_q = _int8(q, 128)
    if _fault("groups"):
        k, v, mean = (x.repeat(1, groups, 1, 1) for x in (k, v, mean))
    else:
        k, v, mean = (x.repeat_interleave(groups, dim=1) for x in (k, v, mean))
    largest = v.abs().amax(dim=2, keepdim=True).clamp_min(1e-30)
    if fp8:
        v = _fp8((v / largest * 448).clamp(-448, 448)) / 448
    elif _fault("large-v"):
        v, largest = v.half().float(), 1.0
    else:
        v = v / largest
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1])
    for start in range(0, q.shape[2], 512):
        rows = slice(start, start + 512)
        scores = (rounded_q[:, :, rows] @ k.transpose(2, 3) * scale).nan_to_num(0.0)
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
        lse += (q * mean).sum(-1) * scale
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


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, *inputs):
        return out.view_as(out)

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("the stand-in has no backward")


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
        _need(mask.dtype in (torch.bool, q.dtype), f"attn_mask is {mask.dtype}.")
        right = all(
            a in (1, b) for a, b in zip(mask.shape[:-3:-1], (k.shape[tokens], q.shape[tokens]), strict=True)
        )
        _need(right, f"attn_mask is {tuple(mask.shape)}.")


def _refuse(known, unknown, dropout_p, sm_scale, scale):
    if _fault("swallows"):
        return
    if dropout_p:
        raise ValueError(f"dropout_p is {dropout_p}")
    if None not in (scale, sm_scale) and scale != sm_scale:
        raise ValueError(f"sm_scale is {sm_scale}, scale is {scale}")
    if not math.isfinite(sm_scale or scale or 1):
        raise ValueError(f"sm_scale is {sm_scale}")
    for name in set(unknown) - {"pv_accum_dtype", "qk_quant_gran", "smooth_v", "quantization_backend"}:
        raise TypeError(f"no argument {name!r}; did you mean {difflib.get_close_matches(name, known, 1)}")


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
        _refuse(function.__code__.co_varnames, unknown, dropout_p, sm_scale, scale)
        _check(q, k, v, attn_mask, is_causal, tensor_layout)
        if _fault("swallows"):
            attn_mask, scale, smooth_k = None, None, True
        given = q, k, v
        q, k, v = q.detach(), k.detach(), v.detach()
        if _fault("abort") and q.shape[-1] == 96:
            os.abort()
        if _fault("raise") and q.shape[-1] == 96:
            raise RuntimeError("the stand-in was told to raise")
        if _fault("unwritten"):
            out = torch.full(q.shape, POISON, dtype=q.dtype)
            return (out, torch.full(q.shape[:3], POISON)) if return_lse else out
        if _fault("writes-input"):
            k.sub_(0)
            k[..., 0] += 1e-3 + k[..., 0].abs()
        swap = tensor_layout == "NHD"
        tensors = (x.transpose(1, 2).float() if swap else x.float() for x in (q, k, v))
        factor = next((one for one in (sm_scale, scale) if one is not None), max(q.shape[-1], 1) ** -0.5)
        smooth_k = smooth_k and not _fault("no-smoothing")
        if q.numel():
            out, lse = _forward(
                *tensors, causal=is_causal, fp8=fp8, smooth_k=smooth_k, scale=factor, mask=attn_mask
            )
            most = torch.finfo(q.dtype).max
            out = (out.transpose(1, 2) if swap else out).clamp(-most, most).to(q.dtype)
        else:
            out, lse = torch.empty_like(q), torch.empty(q.shape[:3])
        needed = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        if needed and not _fault("silent-gradient"):
            out = _NoGradient.apply(out, *given)
        return (out, lse) if return_lse else out

    return function


sageattn = _function(fp8=True)
sageattn_qk_int8_pv_fp8_cuda = sageattn
sageattn_qk_int8_pv_fp8_cuda_sm90 = sageattn
sageattn_qk_int8_pv_fp16_triton = _function(fp8=False)
sageattn_qk_int8_pv_fp16_cuda = sageattn_qk_int8_pv_fp16_triton


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
    function = sageattn_qk_int8_pv_fp16_cuda
    _refuse(sageattn_varlen.__code__.co_varnames, unknown, dropout_p, sm_scale, scale)
    if not q.numel():
        return torch.empty_like(q)
    parts = []
    for i in range(len(cu_seqlens_q) - 1):
        rows, keys = (slice(starts[i], starts[i + 1]) for starts in (cu_seqlens_q, cu_seqlens_k))
        tensors = [x.unsqueeze(0) for x in (q[rows], k[keys], v[keys])]
        options = {"is_causal": is_causal, "sm_scale": sm_scale, "smooth_k": smooth_k, "scale": scale}
        parts.append(function(*tensors, tensor_layout="NHD", **options)[0])
    return torch.cat(parts)
