# SPDX-License-Identifier: Apache-2.0
"""Packed sequences: in one launch, or one by one."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import _torch, _triton_kernels
from ._arguments import Call, Packed, is_foreign, properties, sizes_of

_LONG = 1024  # average length of sequences from which a call for each is faster (on an H100)


def attention(dense: Callable[..., Any], call: Call, packed: Packed, forced: str) -> torch.Tensor:
    """Compute packed attention; `dense` is `sageattn`, for one sequence."""
    q, k, v = call.q, call.k, call.v
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k = packed
    sizes = "q is of another kind" if is_foreign(q) else sizes_of(None, properties(q, k, v))
    for name, ends in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        fits = ends.dim() == 1 and ends.numel() > 0 and ends.shape == cu_seqlens_q.shape
        both = f"{name} has shape {tuple(ends.shape)} and cu_seqlens_q {tuple(cu_seqlens_q.shape)}"
        _need(fits, f"{both}: expected one dimension, of the number of sequences and 1.")
        _need(ends.dtype in (torch.int32, torch.int64), f"{name} is {ends.dtype}: expected int32 or int64.")
        _need(ends.device == q.device, f"{name} is on {ends.device} and q on {q.device}.")
    by_torch = isinstance(sizes, str) or call.dropout_p or forced == "torch" or _torch.derivative_of(q, k, v)
    if torch.compiler.is_compiling():
        if not by_torch:  # lengths are not read: that would break the graph
            return _triton_kernels.varlen(call, packed, sizes)
        from ._uncompiled import packed_attention

        return packed_attention(dense, call, packed, forced)
    shapes = f"The shapes are q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}."
    _need(q.dim() == k.dim() == v.dim() == 3, f"q, k and v: each must have 3 dimensions. {shapes}")
    ends_q, ends_k = torch.stack((cu_seqlens_q.long(), cu_seqlens_k.long())).tolist()
    _check_lengths("q", ends_q, q.size(0), max_seqlen_q)
    _check_lengths("k", ends_k, min(k.size(0), v.size(0)), max_seqlen_k)
    for i, (start, end) in enumerate(itertools.pairwise(ends_k)):
        has_keys = start < end or ends_q[i] == ends_q[i + 1]
        _need(has_keys, f"Sequence {i} of k has no tokens, and that of q has.")
    if q.numel() == 0 or ends_q[-1] == 0:
        return torch.zeros_like(q)
    old = q.is_cuda and torch.cuda.get_device_capability(q.device) < (8, 0)
    if by_torch or old or ends_q[-1] >= _LONG * (len(ends_q) - 1):
        return torch.cat([*_each(dense, call, ends_q, ends_k)])
    return _triton_kernels.varlen(call, packed, sizes)


def _each(dense: Callable[..., Any], call: Call, ends_q: list[int], ends_k: list[int]) -> Iterator[Any]:
    """Compute sequences one by one; those of one length that follow each other are a batch."""
    q, k, v = call.q, call.k, call.v
    pairs = zip(itertools.pairwise(ends_q), itertools.pairwise(ends_k), strict=True)
    alike = itertools.groupby(pairs, lambda pair: (pair[0][1] - pair[0][0], pair[1][1] - pair[1][0]))
    for (rows, keys), group in alike:
        if rows == 0:
            continue
        sequences = [*group]
        count, first_q, first_k = len(sequences), sequences[0][0][0], sequences[0][1][0]
        batch = (
            tensor[first : first + count * length].unflatten(0, (count, length))
            for tensor, first, length in ((q, first_q, rows), (k, first_k, keys), (v, first_k, keys))
        )
        yield dense(*batch, "NHD", call.is_causal, call.sm_scale, dropout_p=call.dropout_p).flatten(0, 1)
    yield q.new_zeros((q.size(0) - ends_q[-1], q.size(1), v.size(2)))


def _check_lengths(name: str, ends: list[int], tokens: int, longest: int) -> None:
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    _need(ends[0] == 0, f"cu_seqlens_{name} begins with {ends[0]}, not 0.")
    _need(min(lengths, default=0) >= 0, f"cu_seqlens_{name} decreases: {ends}.")
    _need(ends[-1] <= tokens, f"cu_seqlens_{name} ends at {ends[-1]}, and {name} has {tokens} tokens.")
    most = max(lengths, default=0)
    _need(most <= longest, f"max_seqlen_{name} is {longest}, and a sequence of {name} has {most} tokens.")


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
