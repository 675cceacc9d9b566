"""Attention in fp32, in chunks, with which every kernel is compared; and the measures of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
    """Compute attention with fp32 arithmetic (TF32 off), never the whole score matrix at once.

    Args:
        q: ``[batch, heads, query tokens, head_dim]``, any floating type.
        k: ``[batch, key heads, key tokens, head_dim]``; ``heads`` is a multiple of ``key heads``.
        v: Like k.
        causal: Each query sees the keys up to its own index.
        scale: Factor on the scores; the inverse root of head_dim by default.
        rows: Indices of the query tokens to compute; all by default.
        mask: bool (True: attend) or a float to add to the scores, of a shape that broadcasts to them. A row
            that is masked throughout is zero.
        dtype: Of the arithmetic, and of what is returned.

    Returns:
        Output ``[batch, heads, rows, head_dim]`` and natural logsumexp ``[batch, heads, rows]``.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    batch, heads, tokens, dim = q.shape
    key_heads, keys = k.shape[1], k.shape[2]
    groups = heads // key_heads
    scale = dim**-0.5 if scale is None else scale
    index = torch.arange(tokens, device=q.device) if rows is None else rows.to(q.device)
    count = int(index.numel())
    out = torch.empty((batch, heads, count, dim), dtype=dtype, device=q.device)
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
                out[b, mine, start : start + size] = result.view(some * groups, size, dim)
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
class Difference:
    """How much a result differs from the right one.

    Attributes:
        not_finite: Elements that are NaN or infinite.
        cosine: Cosine similarity over the whole tensor.
        relative_error: Norm of the difference divided by the norm of the right result.
        worst_row: The same for the worst single row (one query of one head): a few wrong rows among thousands
            hardly move the other two.
    """

    not_finite: int
    cosine: float
    relative_error: float
    worst_row: float


def difference(result: torch.Tensor, right: torch.Tensor) -> Difference:
    """Compare a result with the right one of the same shape; the last dimension is a row."""
    bad = int((~torch.isfinite(result.float())).sum().item())
    got, wanted = result.double(), right.double()
    delta = got - wanted
    norm = wanted.norm()
    cosine = (got * wanted).sum() / (got.norm() * norm)
    row_norms = wanted.norm(dim=-1).clamp_min(1e-6)
    return Difference(
        not_finite=bad,
        cosine=float(cosine.item()),
        relative_error=float((delta.norm() / norm).item()),
        worst_row=float((delta.norm(dim=-1) / row_norms).max().item()),
    )
