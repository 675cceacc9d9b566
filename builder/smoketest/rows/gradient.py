"""A call under grad mode computes, and ``backward()`` says that there is no gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import make, pack, poison, unpack
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_output

CASE = Case((200, 333), head_dim=64)


def _no_gradient(subject: Subject, check: Check, *, compiled: bool) -> Result:
    """Call with each input that requires grad alone, and with all; go back from the output."""
    kernel = check.kernel
    tensors = [tensor.contiguous() for tensor in make(CASE, check.seed(subject.seed), subject.device).tensors]
    right, _ = attention(*tensors)
    bounds = tolerances.bounds(kernel, "fp16")

    call: Callable[..., Any] = partial(subject.attend, kernel)
    if compiled:
        torch._dynamo.reset()
        function = partial(getattr(subject.module, kernel.function), **dict(kernel.arguments))

        def around(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
            given = pack(q, k, v) if kernel.varlen else (q, k, v)
            return function(*given) * 2.0

        one = torch.compile(around, fullgraph=not kernel.varlen, backend="aot_eager")
        call = (lambda *given: unpack(one(*given), given[0])) if kernel.varlen else one

    def back(which: str) -> list[str]:
        given = [
            tensor.clone().requires_grad_(name in which) for name, tensor in zip("qkv", tensors, strict=True)
        ]
        poison(subject.device)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = call(*given)
            problems = judge_output(out.detach() / (2 if compiled else 1), right, bounds)[0]
            if not out.requires_grad:
                return [*problems, "the output does not require grad: backward() is silent"]
            return problems + subject.refused(out.float().sum().backward, RuntimeError, "backward")

    attempts: dict[str, Callable[[], list[str]]] = {
        f"{which} require grad": partial(back, which) for which in ("qkv", "q", "k", "v")
    }
    return verdict(problems_of(attempts))


eager = partial(_no_gradient, compiled=False)
compiled = partial(_no_gradient, compiled=True)
