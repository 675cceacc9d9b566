"""Tensors on cuda:1 while cuda:0 is current: each way to call gives the bits that it gives on cuda:0."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.inputs import arguments, make
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.accuracy import compare_case
from builder.smoketest.rows.conduct.streams import CASE, TRIALS, behind_slow_work, same_bits

Tensors = tuple[torch.Tensor, ...]
SECOND = "cuda:1"
# Per thread, blocks of Hopper's kernel; V as float16; K's mean, and what it adds to the logsumexp.
PREPARATION = (3, 64, 16, 128, 1, 512.0, 1, 0, 0.125, 0, 1)


def _row(subject: Subject, check: Check, *, find: Callable[[Subject, Subject, Check], list[str]]) -> Result:
    """Run a check with cuda:0 current, and look which device is current after it."""
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return not_applicable(f"needs two GPUs, torch sees {gpus}")
    there = torch.cuda.get_device_capability(1)
    if there != subject.capability:
        return not_applicable(f"the second GPU has another compute capability, {there[0]}.{there[1]}")
    torch.cuda.set_device(0)
    try:
        problems = find(subject, replace(subject, device=SECOND), check)
        after = torch.cuda.current_device()
        if after != 0:
            problems.append(f"the caller's current device was changed from 0 to {after}")
    finally:
        torch.cuda.set_device(0)
    return verdict(problems, limits={"current_device": "== 0"})


def _both(subject: Subject, check: Check) -> tuple[Tensors, Tensors]:
    """Return the same inputs on both GPUs."""
    here = make(CASE, check.seed(subject.seed), subject.device).tensors
    return here, tuple(tensor.to(SECOND) for tensor in here)


def _differ(one: torch.Tensor, other: torch.Tensor, what: str) -> list[str]:
    return [] if same_bits(one, other.to(one.device)) else [f"{what} differs from cuda:0's"]


def _right(subject: Subject, elsewhere: Subject, check: Check) -> list[str]:
    """The result is right, as an accuracy row has it."""
    kernel, seed = check.kernel, check.seed(subject.seed)
    case: Case | VarlenCase = VarlenCase(((333, 333), (640, 640))) if kernel.varlen else CASE
    elsewhere.call(kernel, *arguments(case, seed, SECOND))
    if torch.cuda.current_device() != 0:
        return []  # said by the caller
    return [reason for reason in [compare_case(elsewhere, kernel, case, seed).reason] if reason]


def _masked(subject: Subject, elsewhere: Subject, check: Check) -> list[str]:
    here, there = _both(subject, check)
    mask = torch.rand((here[0].shape[2], here[1].shape[2]), device=subject.device) < 0.5
    one = subject.call_checked(check.kernel, *here, attn_mask=mask)
    return _differ(one, elsewhere.call(check.kernel, *there, attn_mask=mask.to(SECOND)), "a masked result")


def _side_stream(subject: Subject, elsewhere: Subject, check: Check) -> list[str]:
    here, there = _both(subject, check)
    one = subject.call_checked(check.kernel, *here).clone()
    stream = torch.cuda.Stream(SECOND)
    results = [behind_slow_work(elsewhere, check.kernel, there, stream) for _ in range(TRIALS)]
    return [problem for other in results for problem in _differ(one, other, "a side stream's result")]


def _graph(subject: Subject, elsewhere: Subject, check: Check) -> list[str]:
    """A graph of cuda:1's stream, captured and replayed while cuda:0 is current."""
    here, there = _both(subject, check)
    one = subject.call_checked(check.kernel, *here).clone()
    static = tuple(torch.zeros_like(tensor) for tensor in there)
    elsewhere.call(check.kernel, *static)
    torch.cuda.synchronize(SECOND)
    captured, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(SECOND)
    with torch.cuda.graph(captured, stream=stream), torch.cuda.device(0):
        out = elsewhere.call(check.kernel, *static)
    for destination, source in zip(static, there, strict=True):
        destination.copy_(source)
    with torch.cuda.device(SECOND):
        captured.replay()
    torch.cuda.synchronize(SECOND)
    return _differ(one, out, "a replayed result")


def _compiled(subject: Subject, _: Subject, check: Check) -> list[str]:
    here, there = _both(subject, check)
    torch._dynamo.reset()
    compiled = torch.compile(partial(subject.call, check.kernel), fullgraph=False, backend="aot_eager")
    return _differ(subject.call_checked(check.kernel, *here), compiled(*there), "a compiled result")


def _threads(subject: Subject, elsewhere: Subject, check: Check) -> list[str]:
    """Two threads, each with a GPU of its own."""
    pairs = list(zip((subject, elsewhere), _both(subject, check), strict=True))
    right = [one.call(check.kernel, *tensors).clone() for one, tensors in pairs]
    problems: list[str] = []

    def work(number: int) -> None:
        one, tensors = pairs[number]
        try:
            torch.cuda.set_device(number)
            stream = torch.cuda.Stream(one.device)
            for _ in range(TRIALS):
                got = behind_slow_work(one, check.kernel, tensors, stream)
                problems.extend(_differ(right[number], got, f"thread {number}'s result"))
        except Exception as error:
            problems.append(f"thread {number}: {one_line(error)}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return problems


def _spread(subject: Subject, _: Subject, check: Check) -> list[str]:
    """Inputs on two GPUs raise ValueError, which names both."""
    here, there = _both(subject, check)
    problems = []
    for mixed in ((there[0], *here[1:]), (here[0], there[1], here[2]), (*here[:2], there[2])):
        try:
            subject.call(check.kernel, *mixed)
            problems.append("inputs on two GPUs were accepted")
        except ValueError as error:
            if not all(device in str(error) for device in ("cuda:0", "cuda:1")):
                problems.append(f"the error does not name both GPUs: {one_line(error)}")
    return problems


def _prepared(subject: Subject, _: Subject, check: Check) -> list[str]:
    here, there = _both(subject, check)
    operator: Any = getattr(torch.ops.sageattention_fused, "prepare", None)
    if operator is None:
        return ["this wheel has no operator that prepares Q, K and V"]
    made = zip(operator(*here, *PREPARATION), operator(*there, *PREPARATION), strict=True)
    return [problem for one, other in made for problem in _differ(one, other, "what was prepared")]


right = partial(_row, find=_right)
masked = partial(_row, find=_masked)
side_stream = partial(_row, find=_side_stream)
graph = partial(_row, find=_graph)
compiled = partial(_row, find=_compiled)
threads = partial(_row, find=_threads)
spread = partial(_row, find=_spread)
prepared = partial(_row, find=_prepared)
