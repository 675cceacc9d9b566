"""Tensors on cuda:1 while cuda:0 is current: each way to call gives the bits that it gives on cuda:0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.compare import same_bits
from builder.smoketest.attention.inputs import arguments, make
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict
from builder.smoketest.rows.accuracy import compare_case
from builder.smoketest.rows.runtime.streams import CASE, TRIALS, behind_slow_work, in_two_threads

Tensors = tuple[torch.Tensor, ...]
SECOND = "cuda:1"


def _on_second(
    find: Callable[[Subject, Subject, RowSpec], list[str]],
) -> Callable[[Subject, RowSpec], Result]:
    """Run a row with cuda:0 current, and look which device is current after it."""

    def row(subject: Subject, spec: RowSpec) -> Result:
        gpus = torch.cuda.device_count()
        if gpus < 2:
            return not_applicable(f"needs two GPUs, torch sees {gpus}")
        if torch.cuda.get_device_capability(1) != subject.capability:
            return not_applicable("the second GPU has another compute capability")
        torch.cuda.set_device(0)
        try:
            problems = find(subject, replace(subject, device=SECOND), spec)
            after = torch.cuda.current_device()
            if after != 0:
                problems.append(f"the caller's current device was changed from 0 to {after}")
        finally:
            torch.cuda.set_device(0)
        return verdict(problems, limits={"current_device": "== 0"})

    return row


def _on_both(subject: Subject, spec: RowSpec) -> tuple[Tensors, Tensors]:
    """Return the same inputs on both GPUs."""
    first = make(CASE, spec.seed(subject.seed), subject.device).tensors
    return first, tuple(tensor.to(SECOND) for tensor in first)


def _differ(one: torch.Tensor, other: torch.Tensor, what: str) -> list[str]:
    return [] if same_bits(one, other.to(one.device)) else [f"{what} differs from cuda:0's"]


@_on_second
def right(subject: Subject, second: Subject, spec: RowSpec) -> list[str]:
    """The result is right, as an accuracy row has it."""
    kernel, seed = spec.kernel, spec.seed(subject.seed)
    case: Case | VarlenCase = VarlenCase(((333, 333), (640, 640))) if kernel.varlen else CASE
    second.call(kernel, *arguments(case, seed, SECOND))
    if torch.cuda.current_device() != 0:
        return []  # said by the caller
    return [reason for reason in [compare_case(second, kernel, case, seed).reason] if reason]


@_on_second
def masked(subject: Subject, second: Subject, spec: RowSpec) -> list[str]:
    on_first, on_second = _on_both(subject, spec)
    mask = torch.rand((on_first[0].shape[2], on_first[1].shape[2]), device=subject.device) < 0.5
    one = subject.call_checked(spec.kernel, *on_first, attn_mask=mask)
    other = second.call(spec.kernel, *on_second, attn_mask=mask.to(SECOND))
    return _differ(one, other, "a masked result")


@_on_second
def side_stream(subject: Subject, second: Subject, spec: RowSpec) -> list[str]:
    on_first, on_second = _on_both(subject, spec)
    one = subject.call_checked(spec.kernel, *on_first).clone()
    stream = torch.cuda.Stream(SECOND)
    results = [behind_slow_work(second, spec.kernel, on_second, stream) for _ in range(TRIALS)]
    return [problem for result in results for problem in _differ(one, result, "a side stream's result")]


@_on_second
def graph(subject: Subject, second: Subject, spec: RowSpec) -> list[str]:
    """A graph of cuda:1's stream, captured and replayed while cuda:0 is current."""
    on_first, on_second = _on_both(subject, spec)
    one = subject.call_checked(spec.kernel, *on_first).clone()
    static = tuple(torch.zeros_like(tensor) for tensor in on_second)
    second.call(spec.kernel, *static)
    torch.cuda.synchronize(SECOND)
    captured, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(SECOND)
    with torch.cuda.graph(captured, stream=stream), torch.cuda.device(0):
        out = second.call(spec.kernel, *static)
    for destination, source in zip(static, on_second, strict=True):
        destination.copy_(source)
    with torch.cuda.device(SECOND):
        captured.replay()
    torch.cuda.synchronize(SECOND)
    return _differ(one, out, "a replayed result")


@_on_second
def compiled(subject: Subject, _: Subject, spec: RowSpec) -> list[str]:
    on_first, on_second = _on_both(subject, spec)
    torch._dynamo.reset()
    compiled = torch.compile(partial(subject.call, spec.kernel), fullgraph=False, backend="aot_eager")
    return _differ(subject.call_checked(spec.kernel, *on_first), compiled(*on_second), "a compiled result")


@_on_second
def threads(subject: Subject, second: Subject, spec: RowSpec) -> list[str]:
    """Two threads, each with a GPU of its own."""
    pairs = list(zip((subject, second), _on_both(subject, spec), strict=True))
    right = [one.call(spec.kernel, *tensors).clone() for one, tensors in pairs]
    problems: list[str] = []

    def work(number: int) -> None:
        one, tensors = pairs[number]
        torch.cuda.set_device(number)
        stream = torch.cuda.Stream(one.device)
        for _ in range(TRIALS):
            result = behind_slow_work(one, spec.kernel, tensors, stream)
            problems.extend(_differ(right[number], result, f"thread {number}'s result"))

    return in_two_threads(work) + problems


@_on_second
def spread(subject: Subject, _: Subject, spec: RowSpec) -> list[str]:
    """Inputs on two GPUs raise ValueError, which names both."""
    a, b = _on_both(subject, spec)
    problems = []
    for mixed in ((b[0], *a[1:]), (a[0], b[1], a[2]), (*a[:2], b[2])):
        call = partial(subject.call, spec.kernel, *mixed)
        problems += subject.refused(call, ValueError, "cuda:0", "cuda:1")
    return problems
