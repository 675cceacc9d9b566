"""A stand-in for sageattention on the CPU: the same functions and the same roundings, and faults on demand.

Q and K are rounded to int8 in blocks, P and V to fp16 or fp8, as the kernels do, so its errors are those of a
right kernel. The environment variable STANDIN_FAULT names one fault that it shall have.
"""

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


def _forward(q, k, v, *, causal, fp8, return_lse, smooth_k=True):
    """``[batch, heads, tokens, head_dim]`` in fp32; returns the output and the natural logsumexp."""
    groups = q.shape[1] // k.shape[1]
    scale = q.shape[-1] ** -0.5
    mean = k.mean(dim=2, keepdim=True) if smooth_k else torch.zeros_like(k[:, :, :1])
    k = _int8(k - mean, 64)
    rounded_q = _int8(q, 128)
    if _fault("groups"):
        k, v, mean = (x.repeat(1, groups, 1, 1) for x in (k, v, mean))
    else:
        k, v, mean = (x.repeat_interleave(groups, dim=1) for x in (k, v, mean))
    if fp8:
        v_scale = v.abs().amax(dim=2, keepdim=True) / 448
        v = _fp8((v / v_scale.clamp_min(1e-12)).clamp(-448, 448)) * v_scale
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1])
    for start in range(0, q.shape[2], 512):
        rows = slice(start, start + 512)
        scores = rounded_q[:, :, rows] @ k.transpose(2, 3) * scale
        if causal and not _fault("causal"):
            index = torch.arange(start, start + scores.shape[2])
            scores = scores.masked_fill(torch.arange(k.shape[2]) > index[:, None], float("-inf"))
        top = scores.amax(dim=-1, keepdim=True)
        p = (scores - top).exp()
        total = p.sum(dim=-1, keepdim=True)
        p = _fp8(p * 448) / 448 if fp8 else p.half().float()
        out[:, :, rows] = p @ v / total
        lse[:, :, rows] = (top + total.log()).squeeze(-1)
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


def _attention(q, k, v, *, tensor_layout, is_causal, return_lse, fp8):
    if not _fault("takes-anything"):
        if q.shape[-1] > 128:
            raise ValueError(f"Unsupported head_dim: {q.shape[-1]}")
        assert q.dtype in (torch.float16, torch.bfloat16)
        assert q.dtype == k.dtype == v.dtype
        assert q.stride(-1) == 1
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
    out, lse = _forward(
        *tensors, causal=is_causal, fp8=fp8, return_lse=return_lse, smooth_k=not _fault("no-smoothing")
    )
    out = (out.transpose(1, 2) if swap else out).to(q.dtype)
    return (out, lse) if return_lse else out


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    """The default path: the fp8 kernel, as on Hopper."""
    return _attention(
        q, k, v, tensor_layout=tensor_layout, is_causal=is_causal, return_lse=return_lse, fp8=True
    )


def _fp16_kernel(q, k, v, tensor_layout="HND", is_causal=False, return_lse=False, **kwargs):
    return _attention(
        q, k, v, tensor_layout=tensor_layout, is_causal=is_causal, return_lse=return_lse, fp8=False
    )


sageattn_qk_int8_pv_fp16_triton = _fp16_kernel
sageattn_qk_int8_pv_fp16_cuda = _fp16_kernel
sageattn_qk_int8_pv_fp8_cuda = sageattn
sageattn_qk_int8_pv_fp8_cuda_sm90 = sageattn


def sageattn_varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, is_causal=False, **kwargs):
    """Packed sequences, one after another."""
    parts = []
    for i in range(len(starts_q) - 1):
        rows, keys = slice(starts_q[i], starts_q[i + 1]), slice(starts_k[i], starts_k[i + 1])
        tensors = (q[rows], k[keys], v[keys])
        one = _fp16_kernel(*(x.unsqueeze(0) for x in tensors), tensor_layout="NHD", is_causal=is_causal)
        parts.append(one[0])
    return torch.cat(parts)
