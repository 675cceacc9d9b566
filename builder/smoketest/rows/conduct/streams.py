"""Streams, graphs, threads and devices: a kernel runs where and when its caller says."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import Inputs, make, poison
from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_output

TRIALS = 5
SLOW_CYCLES = 40_000_000
"""Clock cycles of the slow work: more than 12 ms on today's GPUs, longer than a call's launches."""
CASE = Case((1024, 1024), return_lse=False)


@dataclass(frozen=True)
class Eager:
    """Inputs, and the result of an ordinary call on the default stream."""

    inputs: Inputs
    out: torch.Tensor
    problems: list[str]


def eager(subject: Subject, kernel: Kernel, seed: int, case: Case = CASE) -> Eager:
    """Call a kernel twice as usual; a wrong result and two results that differ are problems.

    Rows that compare with an eager call start here: two equal wrong results prove nothing.
    """
    inputs = make(case, seed, subject.device)
    poison(subject.device)
    out = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout).clone()
    again = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout)
    right, _ = attention(*inputs.heads_first(case.layout))
    broken, _, _ = judge_output(out, right, tolerances.bounds(kernel, "fp16"))
    problems = [f"already wrong on the default stream ({'; '.join(broken)})"] if broken else []
    if not problems and not same_bits(out, again):
        problems = ["two calls on the default stream differ"]
    return Eager(inputs, out, problems)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors hold the same bytes (a NaN equals itself)."""
    return bool(torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)))


def behind_slow_work(
    subject: Subject, kernel: Kernel, tensors: tuple[torch.Tensor, ...], stream: torch.cuda.Stream
) -> torch.Tensor:
    """Call a kernel on a side stream, where its inputs arrive late, after slow work.

    A kernel that is launched on any other stream starts before its inputs are there.
    """
    late = tuple(torch.full_like(tensor, float("nan")) for tensor in tensors)
    torch.cuda.current_stream(subject.device).synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLOW_CYCLES)
        for destination, source in zip(late, tensors, strict=True):
            destination.copy_(source)
        kept: torch.Tensor = subject.call(kernel, *late, tensor_layout=CASE.layout).clone()
    stream.synchronize()
    return kept


def side_stream(subject: Subject, check: Check) -> Result:
    """Results on a side stream equal those on the default stream, bit by bit."""
    kernel = check.kernel
    plain = eager(subject, kernel, check.seed(subject.seed))
    stream = torch.cuda.Stream(subject.device)
    with torch.cuda.stream(stream):
        poison(subject.device)
    wrong = sum(
        not same_bits(behind_slow_work(subject, kernel, plain.inputs.tensors, stream), plain.out)
        for _ in range(TRIALS)
    )
    return _counted(plain.problems, wrong, TRIALS, "the default stream's")


def graph(subject: Subject, check: Check) -> Result:
    """A graph captured once and replayed after its inputs were overwritten equals an eager call on them."""
    kernel, seed = check.kernel, check.seed(subject.seed)
    plain = eager(subject, kernel, seed)
    other = make(CASE, seed + 1_000_003, subject.device)
    expected = subject.call_checked(kernel, *other.tensors, tensor_layout=CASE.layout).clone()
    static = tuple(tensor.clone() for tensor in plain.inputs.tensors)
    warm = torch.cuda.Stream(subject.device)
    warm.wait_stream(torch.cuda.current_stream(subject.device))
    with torch.cuda.stream(warm):
        for _ in range(2):
            subject.call(kernel, *static, tensor_layout=CASE.layout)
    torch.cuda.synchronize(subject.device)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = subject.call(kernel, *static, tensor_layout=CASE.layout)
    problems = list(plain.problems)
    for label, tensors, right in (
        ("new inputs", other.tensors, expected),
        ("the first inputs again", plain.inputs.tensors, plain.out),
    ):
        for destination, source in zip(static, tensors, strict=True):
            destination.copy_(source)
        out.fill_(float("nan"))
        captured.replay()
        torch.cuda.synchronize(subject.device)
        if not same_bits(out, right):
            problems.append(f"replay with {label} differs from the eager call")
    return verdict(problems)


def threads(subject: Subject, check: Check) -> Result:
    """Two threads, each on its own stream with its own inputs, get the same results as one alone."""
    kernel, seed = check.kernel, check.seed(subject.seed)
    plains = [eager(subject, kernel, seed + number) for number in range(2)]
    problems = [problem for plain in plains for problem in plain.problems]
    wrong = [0, 0]
    errors: list[str] = []

    def work(number: int) -> None:
        try:
            with torch.cuda.device(subject.device):
                stream = torch.cuda.Stream(subject.device)
                for _ in range(TRIALS):
                    got = behind_slow_work(subject, kernel, plains[number].inputs.tensors, stream)
                    wrong[number] += not same_bits(got, plains[number].out)
        except Exception as error:
            errors.append(f"thread {number}: {one_line(error)}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _counted(problems + errors, sum(wrong), 2 * TRIALS, "those of one thread")


def _counted(problems: list[str], wrong: int, trials: int, expected: str) -> Result:
    more = [f"{wrong} of {trials} results differ from {expected}"] if wrong else []
    return verdict(
        problems + more, {"differing": float(wrong), "trials": float(trials)}, {"differing": "== 0"}
    )
