"""A kernel inside a function that ``torch.compile`` compiles."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import make, poison
from builder.smoketest.attention.reference import attention, difference
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_output


def _compiled(subject: Subject, check: Check, *, fullgraph: bool, backend: str) -> Result:
    """A compiled function around the call equals the same function uncompiled, at two lengths.

    Equal within rounding: a compiler may take the mean of K in another order, which moves a few int8 values
    by one. The compiled result is also compared with fp32 attention.
    """
    kernel, seed = check.kernel, check.seed(subject.seed)
    function = partial(getattr(subject.module, kernel.function), **dict(kernel.arguments))

    def around(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return function(q * 0.5, k, v, tensor_layout="HND", is_causal=False) * 2.0

    torch._dynamo.reset()
    problems = []
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.compile(around, fullgraph=fullgraph, backend=backend)
        for tokens in (1024, 640):
            inputs = make(Case((tokens, tokens)), seed + tokens, subject.device)
            poison(subject.device)
            uncompiled = around(inputs.q, inputs.k, inputs.v).float()
            poison(subject.device)
            out = one(inputs.q, inputs.k, inputs.v)
            right = attention(inputs.q * 0.5, inputs.k, inputs.v)[0] * 2
            wrong = judge_output(out, right, tolerances.bounds(kernel, "fp16"))[0]
            problems += [f"{tokens} tokens: {problem}" for problem in wrong]
            seen = difference(out, uncompiled)
            figures[f"cosine_to_eager_{tokens}"] = seen.cosine
            if not seen.cosine >= tolerances.FAMILIES["fp16"].cosine:
                problems.append(f"{tokens} tokens: cosine to the eager call {seen.cosine:.6f} < 0.9999")
    return verdict(problems, figures, {"cosine_to_eager": ">= 0.9999"})


aot_eager = partial(_compiled, fullgraph=False, backend="aot_eager")
fullgraph = partial(_compiled, fullgraph=True, backend="aot_eager")
inductor = partial(_compiled, fullgraph=True, backend="inductor")
