"""Exact attention, with which every kernel is compared, and how much a result may differ from it.

Q and K are rounded to int8 in blocks, so each score carries an error of about 0.0135 (two operands, each with
a step of four standard deviations / 127); the output's relative error is about the same, whatever the length.
Rounding P and V to fp8 (three bits of mantissa: 0.026 each) brings it to about 0.037. Output in bf16 adds
0.0011 in quadrature, which does not matter; a short sequence has smaller maxima, so finer steps. So each
family has one limit, for all lengths and both types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from builder.smoketest.attention.kernels import Kernel

BUDGET_BYTES = 2**29
"""How much memory one chunk of scores may take."""


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    rows: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    budget_bytes: int = BUDGET_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention exactly (TF32 off), never the whole score matrix at once.

    Args:
        q: ``[batch, heads, query tokens, head_dim]``, any floating type.
        k: ``[batch, key heads, key tokens, head_dim]``; ``heads`` is a multiple of ``key heads``.
        v: Like k, of any head dimension.
        causal: Each query sees the keys up to its own index.
        scale: Factor on the scores; the inverse root of head_dim by default.
        rows: Indices of the query tokens to compute; all by default.
        mask: bool (True: attend) or a float to add to the scores, of a shape that broadcasts to them. A row
            that is masked throughout is zero.
        dtype: Of the arithmetic, and of what is returned.

    Returns:
        Output ``[batch, heads, rows, v's head_dim]`` and natural logsumexp ``[batch, heads, rows]``.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    batch, heads, tokens, dim = q.shape
    key_heads, keys = k.shape[1], k.shape[2]
    groups = heads // key_heads
    scale = dim**-0.5 if scale is None else scale
    index = torch.arange(tokens, device=q.device) if rows is None else rows.to(q.device)
    count = int(index.numel())
    out = torch.empty((batch, heads, count, v.shape[-1]), dtype=dtype, device=q.device)
    lse = torch.empty((batch, heads, count), dtype=dtype, device=q.device)
    mask = None if mask is None else mask.expand(batch, heads, tokens, keys)

    chunk = max(1, min(count, budget_bytes // (4 * groups * keys)))
    together = max(1, min(key_heads, budget_bytes // (4 * groups * keys * chunk)))
    key_index = torch.arange(keys, device=q.device)
    for b in range(batch):
        for h in range(0, key_heads, together):
            wide_k = k[b, h : h + together].to(dtype).transpose(1, 2)
            wide_v = v[b, h : h + together].to(dtype)
            some = wide_k.shape[0]
            mine = slice(h * groups, (h + some) * groups)
            for start in range(0, count, chunk):
                part = index[start : start + chunk]
                size = int(part.numel())
                wide_q = q[b, mine].index_select(1, part).to(dtype) * scale
                scores = torch.bmm(wide_q.reshape(some, groups * size, dim), wide_k)
                scores = scores.view(some, groups, size, keys)
                if mask is not None:
                    part_mask = mask[b, mine].index_select(1, part).view(scores.shape)
                    if part_mask.dtype == torch.bool:
                        scores.masked_fill_(~part_mask, float("-inf"))
                    else:
                        scores += part_mask
                if causal:
                    scores.masked_fill_(key_index[None, :] > part[:, None], float("-inf"))
                total = torch.logsumexp(scores, dim=-1)
                scores.sub_(total.unsqueeze(-1).clamp_min(torch.finfo(dtype).min)).exp_()
                result = torch.bmm(scores.view(some, groups * size, keys), wide_v)
                out[b, mine, start : start + size] = result.view(some * groups, size, -1)
                lse[b, mine, start : start + size] = total.view(some * groups, size)
    return out, lse


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, sequences: Sequence[tuple[int, int]], causal: bool
) -> torch.Tensor:
    """Compute attention of packed sequences ``[tokens, heads, head_dim]``: pairs of query and key tokens."""
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    q_at = k_at = 0
    for queries, keys in sequences:
        parts = (q[q_at : q_at + queries], k[k_at : k_at + keys], v[k_at : k_at + keys])
        heads_first = (part.transpose(0, 1).unsqueeze(0) for part in parts)
        out[q_at : q_at + queries] = attention(*heads_first, causal=causal)[0][0].transpose(0, 1)
        q_at += queries
        k_at += keys
    return out


@dataclass(frozen=True)
class Tolerance:
    """Bounds on how much a result differs from the right one.

    Attributes:
        cosine: Lowest cosine similarity over the whole tensor.
        relative_error: Highest norm of the difference divided by the norm of the right result.
        worst_row: Highest relative error of one row (one query of one head): a few wrong rows among
            thousands hardly move the other two. It varies most where a row sees few keys.
    """

    cosine: float
    relative_error: float
    worst_row: float


FAMILIES = {
    "fp16": Tolerance(cosine=0.9999, relative_error=0.02, worst_row=0.08),
    "fp8": Tolerance(cosine=0.999, relative_error=0.05, worst_row=0.15),
}
"""Limits by the number format of the product of P and V."""

COARSE_MEAN = Tolerance(cosine=0.9995, relative_error=0.03, worst_row=0.12)
"""For bf16 inputs to the kernel that subtracts V's mean before fp16: the difference is rounded to bf16, and
all values of a channel that share an exponent are rounded by the same amount. That does not average out over
keys: 0.009 at 777 tokens, 0.021 at 4,096, on top of the family's own."""

LSE_RMS = 0.02
"""Root mean square of the error of the logsumexp: where one key dominates it is that score's own error."""
LSE_MAX = 0.1
"""Highest error of one logsumexp; a base-2 logarithm taken for a natural one differs by more than 1."""

Judgement = tuple[list[str], dict[str, float], dict[str, str]]
"""Problems in words, the figures, and their limits as text."""


def bounds(kernel: Kernel, dtype: str) -> Tolerance:
    """Return the limits of a kernel's output for inputs of a type (``fp16`` or ``bf16``)."""
    if kernel.family == "fp16" and kernel.smooth_v and dtype == "bf16":
        return COARSE_MEAN
    return FAMILIES[kernel.family]


def relative_error(result: torch.Tensor, right: torch.Tensor) -> float:
    """Return the norm of the difference divided by the norm of the right result."""
    return float(((result.double() - right.double()).norm() / right.double().norm()).item())


def judge_output(out: torch.Tensor, right: torch.Tensor, limits: Tolerance) -> Judgement:
    """Compare an output with the right answer of the same shape; the last dimension is a row."""
    bad = int((~torch.isfinite(out.float())).sum().item())
    got, wanted = out.double(), right.double()
    row_norms = wanted.norm(dim=-1).clamp_min(1e-6)
    figures = {
        "not_finite": float(bad),
        "cosine": float(((got * wanted).sum() / (got.norm() * wanted.norm())).item()),
        "relative_error": relative_error(got, wanted),
        "worst_row": float(((got - wanted).norm(dim=-1) / row_norms).max().item()),
    }
    problems = [f"{bad} elements are NaN or infinite"] if bad else []
    if not bad:  # written so that NaN breaks every bound
        if not figures["cosine"] >= limits.cosine:
            problems.append(f"cosine {figures['cosine']:.6f} < {limits.cosine}")
        if not figures["relative_error"] <= limits.relative_error:
            problems.append(f"relative error {figures['relative_error']:.4f} > {limits.relative_error}")
        if not figures["worst_row"] <= limits.worst_row:
            problems.append(f"worst row's relative error {figures['worst_row']:.3f} > {limits.worst_row}")
    text = {"relative_error": f"<= {limits.relative_error}", "worst_row": f"<= {limits.worst_row}"}
    return problems, figures, {"not_finite": "== 0", "cosine": f">= {limits.cosine}", **text}


def judge_lse(lse: torch.Tensor | None, right: torch.Tensor) -> Judgement:
    """Compare a natural logsumexp ``[batch, heads, tokens]`` with the right one."""
    limits = {"lse_rms": f"<= {LSE_RMS}", "lse_max": f"<= {LSE_MAX}"}
    if lse is None or tuple(lse.shape) != tuple(right.shape):
        shape = None if lse is None else tuple(lse.shape)
        return [f"logsumexp is {shape}, expected {tuple(right.shape)}"], {}, limits
    delta = (lse.float() - right).double()
    rms, worst = float(delta.pow(2).mean().sqrt().item()), float(delta.abs().max().item())
    problems = []
    if not rms <= LSE_RMS:
        problems.append(f"logsumexp's error {rms:.4f} > {LSE_RMS} (root mean square)")
    if not worst <= LSE_MAX:
        problems.append(f"logsumexp's largest error {worst:.4f} > {LSE_MAX}")
    return problems, {"lse_rms": rms, "lse_max": worst}, limits


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors hold the same bytes (a NaN equals itself)."""
    return bool(torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)))
