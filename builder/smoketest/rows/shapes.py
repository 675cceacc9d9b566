"""Shapes, types, devices and strides are checked before anything runs: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import VarlenCase
from builder.smoketest.attention.inputs import make_packed, poison
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_output

Shape = tuple[int, ...]
GOOD: Shape = (2, 4, 40, 64)
Attempts = dict[str, Callable[[], list[str]]]


def _normal(device: str, shape: Shape, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype)


def _packed(check: Check, shape: Shape) -> Shape:
    """Return the shape as the function takes it: ``sageattn_varlen`` has all tokens in one dimension."""
    batch, heads, tokens, dim = shape
    return (batch * tokens, heads, dim) if check.kernel.varlen else shape


def empty(subject: Subject, check: Check) -> Result:
    """No queries, or no batch: an empty output of Q's shape and type, and an empty logsumexp."""
    kernel = check.kernel

    def like_q(q_shape: Shape, k_shape: Shape) -> list[str]:
        q, k, v = (_normal(subject.device, shape) for shape in (q_shape, k_shape, k_shape))
        if kernel.varlen:
            out = subject.attend(kernel, q, k, v)
            results = [(out, q_shape, q.dtype)]
        else:
            out, lse = subject.attend(kernel, q, k, v, return_lse=True)
            alone = subject.attend(kernel, q, k, v)
            results = [
                (out, q_shape, q.dtype),
                (alone, q_shape, q.dtype),
                (lse, q_shape[:3], torch.float32),
            ]
        return [
            f"{tuple(got.shape)} of {got.dtype}, expected {shape} of {dtype}"
            for got, shape, dtype in results
            if tuple(got.shape) != shape or got.dtype != dtype
        ]

    attempts: Attempts = {"no queries": partial(like_q, (2, 4, 0, 64), GOOD)}
    if not kernel.varlen:
        attempts["no batch"] = partial(like_q, (0, 4, 9, 64), (0, 4, 40, 64))
        attempts["neither queries nor keys"] = partial(like_q, (2, 4, 0, 64), (2, 4, 0, 64))
    return verdict(problems_of(attempts))


def disagreeing(subject: Subject, check: Check) -> Result:
    """Shapes that don't fit together raise ValueError with the argument's name and the shapes."""

    def refuses(
        name: str, q: Shape = GOOD, k: Shape = GOOD, v: Shape | None = None
    ) -> Callable[[], list[str]]:
        shapes = (q, k, k if v is None else v)
        tensors = [_normal(subject.device, _packed(check, shape)) for shape in shapes]
        said = [str(shape) for shape in dict.fromkeys(tuple(tensor.shape) for tensor in tensors)]
        return partial(
            subject.refused, partial(_call, subject, check, tensors, shapes), ValueError, name, *said
        )

    b, h, n, d = GOOD
    attempts: Attempts = {
        "head_dim 129": refuses("head_dim", *(((b, h, n, 129),) * 3)),
        "head_dim 0": refuses("head_dim", *(((b, h, n, 0),) * 3)),
        "K with another head_dim": refuses("k", k=(b, h, n, 128)),
        "V with another head_dim": refuses("v", v=(b, h, n, 128)),
        "V with more heads": refuses("v", v=(b, 2 * h, n, d)),
        "V with fewer heads": refuses("v", v=(b, h // 2, n, d)),
        "heads that do not divide": refuses("heads", k=(b, 3, n, d)),
        "more heads of K than of Q": refuses("heads", k=(b, 2 * h, n, d)),
        "V longer than K": refuses("v", v=(b, h, n + 9, d)),
        "V shorter than K": refuses("v", v=(b, h, n - 9, d)),
    }
    if not check.kernel.varlen:
        attempts |= {
            "K and V of another batch": refuses("k", k=(b + 1, h, n, d)),
            "V of another batch": refuses("v", v=(b - 1, h, n, d)),
            "K and V without a batch": refuses("k", k=(0, h, n, d)),
        }
    return _and_then(subject, check, attempts)


def no_keys(subject: Subject, check: Check) -> Result:
    """No keys: ValueError, and the device is alive."""
    none = (*GOOD[:2], 0, GOOD[3])
    tensors = [_normal(subject.device, _packed(check, shape)) for shape in (GOOD, none, none)]
    call = partial(_call, subject, check, tensors, (GOOD, none, none))
    attempts: Attempts = {"no keys": partial(subject.refused, call, ValueError, "k")}
    return _and_then(subject, check, attempts)


def _call(subject: Subject, check: Check, tensors: list[torch.Tensor], shapes: tuple[Shape, ...]) -> Any:
    if not check.kernel.varlen:
        return subject.call(check.kernel, *tensors)
    lengths = (shapes[0][2], shapes[1][2])
    starts = [
        torch.arange(GOOD[0] + 1, dtype=torch.int32, device=subject.device) * length for length in lengths
    ]
    return subject.call(check.kernel, *tensors, *starts, *lengths)


def kinds(subject: Subject, check: Check) -> Result:
    """Types, devices, layouts and dimensions that no kernel takes raise ValueError by name."""
    good = _normal(subject.device, _packed(check, GOOD))

    def refuses(*words: str, tensors: list[torch.Tensor], **arguments: Any) -> Callable[[], list[str]]:
        if check.kernel.varlen:
            call = partial(_call, subject, check, tensors, (GOOD, GOOD, GOOD))
        else:
            call = partial(subject.call, check.kernel, *tensors, **arguments)
        return partial(subject.refused, call, ValueError, *words)

    attempts: Attempts = {
        "float32": refuses("q", "float32", tensors=[good.float()] * 3),
        "V of bfloat16": refuses("v", "bfloat16", tensors=[good, good, good.bfloat16()]),
        "K of int8": refuses("k", "int8", tensors=[good, good.to(torch.int8), good]),
        "two dimensions": refuses("dimensions", tensors=[good[0, 0], good, good]),
    }
    if subject.on_gpu:
        attempts["all on the CPU"] = refuses("q", "cpu", tensors=[good.cpu()] * 3)
        attempts["K on the CPU"] = refuses("k", "cpu", tensors=[good, good.cpu(), good])
    if not check.kernel.varlen:
        attempts["an unknown layout"] = refuses(
            "tensor_layout", "BHND", "HND", tensors=[good] * 3, tensor_layout="BHND"
        )
    return _and_then(subject, check, attempts)


def sequences(subject: Subject, check: Check) -> Result:
    """``cu_seqlens`` and ``max_seqlen`` that don't fit raise ValueError by name."""
    case = VarlenCase(((17, 40), (33, 9), (50, 60)), head_dim=64)
    _, (q, k, v, starts_q, starts_k, longest_q, longest_k) = make_packed(
        case, check.seed(subject.seed), subject.device
    )

    def refuses(name: str, **other: Any) -> Callable[[], list[str]]:
        given = {"q": starts_q, "k": starts_k, "longest_q": longest_q, "longest_k": longest_k, **other}
        call = partial(subject.call, check.kernel, q, k, v, *given.values())
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
    return _and_then(subject, check, attempts)


def strides(subject: Subject, check: Check) -> Result:
    """Any strides, and data that begins at any element, give the right result."""
    device, (_, h, n, d) = subject.device, GOOD
    torch.manual_seed(check.seed(subject.seed))

    def right(make: Callable[[], torch.Tensor], *, cut: int = d) -> list[str]:
        q, k, v = (make()[..., :cut] for _ in range(3))
        poison(device)
        out = subject.attend(check.kernel, q, k, v)
        wanted, _ = attention(q, k, v)
        return judge_output(out, wanted, tolerances.bounds(check.kernel, "fp16"))[0]

    attempts: Attempts = {
        "the last dimension first": partial(right, lambda: _normal(device, (1, h, d, n)).transpose(2, 3)),
        "every other element": partial(right, lambda: _normal(device, (1, h, n, 2 * d))[..., ::2]),
        "one K for all heads": partial(right, lambda: _normal(device, (1, 1, n, d)).expand(1, h, n, d)),
        "rows of d + 3 from the second element": partial(
            right, lambda: _normal(device, (1, h, n, d + 3))[..., 1 : d + 1]
        ),
        "head_dim 37": partial(right, lambda: _normal(device, (1, h, n, d)), cut=37),
        "head_dim 17": partial(right, lambda: _normal(device, (1, h, n, d)), cut=17),
    }
    return verdict(problems_of(attempts))


def _and_then(subject: Subject, check: Check, attempts: Attempts) -> Result:
    """Run the attempts, and see whether a good call is still right."""

    def good() -> list[str]:
        torch.manual_seed(check.seed(subject.seed))
        q, k, v = (_normal(subject.device, (2, 4, 200, 64)) for _ in range(3))
        poison(subject.device)
        out = subject.attend(check.kernel, q, k, v)
        return judge_output(out, attention(q, k, v)[0], tolerances.bounds(check.kernel, "fp16"))[0]

    problems = problems_of({**attempts, "a good call afterwards": good})
    return verdict(problems, {"attempts": float(len(attempts))})
