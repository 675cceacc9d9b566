"""Shapes, types, devices and strides are checked before anything runs: right, or refused by name.

`sageattn` and `sageattn_varlen` compute more than the functions that name a kernel: see `total`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import VarlenCase
from builder.smoketest.attention.inputs import cu_seqlens, make_packed
from builder.smoketest.attention.subject import Attempts, Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.rows.accuracy import wrong

Shape = tuple[int, ...]
GOOD: Shape = (2, 4, 40, 64)


def _normal(device: str, shape: Shape, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype)


def empty(subject: Subject, spec: RowSpec) -> Attempts:
    """No queries, or no batch: an empty output of Q's shape and type, and an empty logsumexp."""
    kernel = spec.kernel

    def like_q(q_shape: Shape, k_shape: Shape) -> list[str]:
        q, k, v = (_normal(subject.device, shape) for shape in (q_shape, k_shape, k_shape))
        results = [(subject.attend(kernel, q, k, v), q_shape, q.dtype)]
        if not kernel.varlen:
            out, lse = subject.attend(kernel, q, k, v, return_lse=True)
            results += [(out, q_shape, q.dtype), (lse, q_shape[:3], torch.float32)]
        return [
            f"{tuple(result.shape)} of {result.dtype}, expected {shape} of {dtype}"
            for result, shape, dtype in results
            if tuple(result.shape) != shape or result.dtype != dtype
        ]

    attempts: Attempts = {"no queries": partial(like_q, (2, 4, 0, 64), GOOD)}
    if not kernel.varlen:
        attempts["no batch"] = partial(like_q, (0, 4, 9, 64), (0, 4, 40, 64))
        attempts["neither queries nor keys"] = partial(like_q, (2, 4, 0, 64), (2, 4, 0, 64))
    return attempts


def disagreeing(subject: Subject, spec: RowSpec) -> Attempts:
    """Shapes that don't fit together raise ValueError with the argument's name and the shapes."""

    def refuses(
        name: str, q: Shape = GOOD, k: Shape = GOOD, v: Shape | None = None
    ) -> Callable[[], list[str]]:
        shapes = (q, k, k if v is None else v)
        tensors = [_normal(subject.device, _packed(spec, shape)) for shape in shapes]
        # Packed sequences may be refused for where they end, or one by one.
        words = [] if spec.kernel.varlen else [name, *map(str, dict.fromkeys(shapes))]
        return partial(subject.refused, partial(_call, subject, spec, tensors, shapes), ValueError, *words)

    b, h, n, d = GOOD
    attempts: Attempts = {
        "K with another head_dim": refuses("k", k=(b, h, n, 128)),
        "V with more heads": refuses("v", v=(b, 2 * h, n, d)),
        "V with fewer heads": refuses("v", v=(b, h // 2, n, d)),
        "heads that do not divide": refuses("heads", k=(b, 3, n, d)),
        "more heads of K than of Q": refuses("heads", k=(b, 2 * h, n, d)),
        "V shorter than K": refuses("v", v=(b, h, n - 9, d)),
    }
    if not spec.kernel.total:
        attempts["head_dim 0"] = refuses("head_dim", *(((b, h, n, 0),) * 3))
        attempts["head_dim 129"] = refuses("head_dim", *(((b, h, n, 129),) * 3))
        attempts["V with another head_dim"] = refuses("v", v=(b, h, n, 128))
    if not spec.kernel.varlen:
        attempts["V longer than K"] = refuses("v", v=(b, h, n + 9, d))
        attempts["K and V of another batch"] = refuses("k", k=(b + 1, h, n, d))
        attempts["V of another batch"] = refuses("v", v=(b + 1, h, n, d))
        attempts["K and V without a batch"] = refuses("k", k=(0, h, n, d))
    return _and_then(subject, spec, attempts)


def no_keys(subject: Subject, spec: RowSpec) -> Attempts:
    """No keys: ValueError, or torch's answer, and the device is alive."""
    none = (*GOOD[:2], 0, GOOD[3])
    tensors = [_normal(subject.device, _packed(spec, shape)) for shape in (GOOD, none, none)]
    call = partial(_call, subject, spec, tensors, (GOOD, none, none))

    def as_torch() -> list[str]:
        q, k, v = tensors
        with suppress(ValueError):
            right = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return [] if torch.equal(call().nan_to_num(7), right.nan_to_num(7)) else ["other than torch's"]
        return []

    attempt = as_torch if spec.kernel.key == "sageattn" else partial(subject.refused, call, ValueError, "k")
    return _and_then(subject, spec, {"no keys": attempt})


def _packed(spec: RowSpec, shape: Shape) -> Shape:
    """Return the shape as the function takes it: ``sageattn_varlen`` has all tokens in one dimension."""
    batch, heads, tokens, dim = shape
    return (batch * tokens, heads, dim) if spec.kernel.varlen else shape


def _call(subject: Subject, spec: RowSpec, tensors: list[torch.Tensor], shapes: tuple[Shape, ...]) -> Any:
    if not spec.kernel.varlen:
        return subject.call(spec.kernel, *tensors)
    lengths = (shapes[0][2], shapes[1][2])
    starts = (cu_seqlens([length] * GOOD[0], subject.device) for length in lengths)
    return subject.call(spec.kernel, *tensors, *starts, *lengths)


def kinds(subject: Subject, spec: RowSpec) -> Attempts:
    """Types, devices, layouts and dimensions that no kernel takes raise ValueError by name."""
    good = _normal(subject.device, _packed(spec, GOOD))

    def refuses(*words: str, tensors: list[torch.Tensor], **arguments: Any) -> Callable[[], list[str]]:
        call = partial(subject.call, spec.kernel, *tensors, **arguments)
        if spec.kernel.varlen:
            call = partial(_call, subject, spec, tensors, (GOOD, GOOD, GOOD))
        return partial(subject.refused, call, ValueError, *words)

    attempts: Attempts = {
        "V of bfloat16": refuses("v", "bfloat16", tensors=[good, good, good.bfloat16()]),
        "K of int8": refuses("k", "int8", tensors=[good, good.to(torch.int8), good]),
    }
    if subject.on_gpu:
        attempts["K on the CPU"] = refuses("k", "cpu", tensors=[good, good.cpu(), good])
    if not spec.kernel.total:
        attempts["two dimensions"] = refuses("dimensions", tensors=[good[0, 0], good, good])
        attempts["float32"] = refuses("q", "float32", tensors=[good.float()] * 3)
        if subject.on_gpu:
            attempts["all on the CPU"] = refuses("q", "cpu", tensors=[good.cpu()] * 3)
    if not spec.kernel.varlen:
        layout = {"tensor_layout": "BHND"}
        attempts["an unknown layout"] = refuses("tensor_layout", "BHND", "HND", tensors=[good] * 3, **layout)
    return _and_then(subject, spec, attempts)


def sequences(subject: Subject, spec: RowSpec) -> Attempts:
    """``cu_seqlens`` and ``max_seqlen`` that don't fit raise ValueError by name."""
    case = VarlenCase(((17, 40), (33, 9), (50, 60)), head_dim=64)
    _, (q, k, v, starts_q, starts_k, longest_q, longest_k) = make_packed(
        case, spec.seed(subject.seed), subject.device
    )

    def refuses(name: str, **other: Any) -> Callable[[], list[str]]:
        rest = {"q": starts_q, "k": starts_k, "longest_q": longest_q, "longest_k": longest_k, **other}
        call = partial(subject.call, spec.kernel, q, k, v, *rest.values())
        return partial(subject.refused, call, ValueError, name)

    def starts(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=subject.device)

    attempts = {
        "cu_seqlens_q decreases": refuses("cu_seqlens_q", q=starts(0, 50, 17, 100)),
        "cu_seqlens_k decreases": refuses("cu_seqlens_k", k=starts(0, 49, 40, 109)),
        "cu_seqlens_q does not begin with 0": refuses("cu_seqlens_q", q=starts(5, 17, 50, 100)),
        "cu_seqlens_q with fewer sequences": refuses("cu_seqlens", q=starts_q[:-1]),
        "cu_seqlens_k of float32": refuses("cu_seqlens_k", k=starts_k.float()),
        "max_seqlen_q too small": refuses("max_seqlen_q", longest_q=longest_q - 1),
        "max_seqlen_k too small": refuses("max_seqlen_k", longest_k=longest_k - 1),
        "a sequence without keys": refuses("k", k=starts(0, 40, 40, 100)),
        "cu_seqlens_q ends past the tokens": refuses("cu_seqlens_q", q=starts(0, 17, 50, 150)),
        "cu_seqlens_k ends past the tokens": refuses("cu_seqlens_k", k=starts(0, 40, 49, 150)),
    }
    return _and_then(subject, spec, attempts)


def strides(subject: Subject, spec: RowSpec) -> Attempts:
    """Any strides, and data that begins at any element, give the right result."""
    device, (_, h, n, d) = subject.device, GOOD

    def right(make: Callable[[], torch.Tensor], cut: int = d) -> Callable[[], list[str]]:
        return lambda: wrong(subject, spec.kernel, [make()[..., :cut] for _ in range(3)])

    attempts: Attempts = {
        "the last dimension first": right(lambda: _normal(device, (1, h, d, n)).transpose(2, 3)),
        "every other element": right(lambda: _normal(device, (1, h, n, 2 * d))[..., ::2]),
        "one K for all heads": right(lambda: _normal(device, (1, 1, n, d)).expand(1, h, n, d)),
        "rows from the second element": right(lambda: _normal(device, (1, h, n, d + 3))[..., 1 : d + 1]),
        "head_dim 37": right(lambda: _normal(device, (1, h, n, d)), 37),
        "head_dim 17": right(lambda: _normal(device, (1, h, n, d)), 17),
    }
    return attempts


def _and_then(subject: Subject, spec: RowSpec, attempts: Attempts) -> Attempts:
    """Add an attempt that sees whether a good call is still right."""
    tensors = [_normal(subject.device, (2, 4, 200, 64)) for _ in range(3)]
    return {**attempts, "a good call afterwards": partial(wrong, subject, spec.kernel, tensors)}
