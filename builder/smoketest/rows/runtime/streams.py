"""Streams, graphs, threads, compiled code and impossible launches: a kernel runs where its caller says."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import attention, bounds, judge_output, same_bits
from builder.smoketest.attention.inputs import Inputs, make, poison
from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.subject import HiddenLaunchError, Subject, one_line
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict

TRIALS = 5
SLOW_CYCLES = 40_000_000
"""Clock cycles of the slow work: more than 12 ms on today's GPUs, longer than a call's launches."""
CASE = Case((1024, 1024))
MORE_THAN_A_GRID = 65_536
"""One more than a grid's y and z dimensions may have (CUDA C++ Programming Guide, compute capabilities)."""


def eager(
    subject: Subject, kernel: Kernel, seed: int, case: Case = CASE
) -> tuple[Inputs, torch.Tensor, list[str]]:
    """Return inputs, a kernel's result on the default stream, and what is wrong with it.

    Rows that compare with an eager call start here: two equal wrong results prove nothing.
    """
    inputs = make(case, seed, subject.device)
    poison(subject.device)
    out = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout).clone()
    again = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout)
    right, _ = attention(*inputs.heads_first(case.layout))
    broken, _, _ = judge_output(out, right, bounds(kernel, "fp16"))
    problems = [f"already wrong on the default stream ({'; '.join(broken)})"] if broken else []
    if not problems and not same_bits(out, again):
        problems = ["two calls on the default stream differ"]
    return inputs, out, problems


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


def new_tensors_hold_nan(subject: Subject, _: RowSpec) -> Result:
    """New tensors hold NaN after poisoning; without that, no row would notice output that was not written."""
    poison(subject.device)
    clean = []
    for size in (512, 2**16, 2**20, 2**22, 2**26):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            fresh = torch.empty(size // dtype.itemsize, dtype=dtype, device=subject.device)
            if not bool(torch.isnan(fresh.float()).all()):
                clean.append(f"{size} bytes of {dtype} are not all NaN")
            del fresh
            poison(subject.device)
    return verdict(clean)


def side_stream(subject: Subject, spec: RowSpec) -> Result:
    """Results on a side stream equal those on the default stream, bit by bit."""
    inputs, out, problems = eager(subject, spec.kernel, spec.seed(subject.seed))
    stream = torch.cuda.Stream(subject.device)
    with torch.cuda.stream(stream):
        poison(subject.device)
    wrong = sum(
        not same_bits(behind_slow_work(subject, spec.kernel, inputs.tensors, stream), out)
        for _ in range(TRIALS)
    )
    return _counted(problems, wrong, TRIALS, "the default stream's")


def graph(subject: Subject, spec: RowSpec) -> Result:
    """A graph captured once and replayed after its inputs were overwritten equals an eager call on them."""
    kernel, seed = spec.kernel, spec.seed(subject.seed)
    first, first_out, problems = eager(subject, kernel, seed)
    second = make(CASE, seed + 1_000_003, subject.device)
    second_out = subject.call_checked(kernel, *second.tensors, tensor_layout=CASE.layout).clone()
    static = tuple(tensor.clone() for tensor in first.tensors)
    captured, out = capture(subject, partial(subject.call, kernel, *static, tensor_layout=CASE.layout))
    for label, tensors, right in (
        ("new inputs", second.tensors, second_out),
        ("the first inputs again", first.tensors, first_out),
    ):
        for destination, source in zip(static, tensors, strict=True):
            destination.copy_(source)
        out.fill_(float("nan"))
        captured.replay()
        torch.cuda.synchronize(subject.device)
        if not same_bits(out, right):
            problems.append(f"replay with {label} differs from the eager call")
    return verdict(problems)


def capture(subject: Subject, call: partial[Any]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """Capture a call into a graph after a warm-up on a side stream; return the graph and its output."""
    warm = torch.cuda.Stream(subject.device)
    warm.wait_stream(torch.cuda.current_stream(subject.device))
    with torch.cuda.stream(warm):
        for _ in range(2):
            call()
    torch.cuda.synchronize(subject.device)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = call()
    return captured, out


def in_two_threads(work: Callable[[int], None]) -> list[str]:
    """Run `work` for 0 and 1 at the same time; return what they raised."""
    problems = []

    def attempt(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            problems.append(f"thread {number}: {one_line(error)}")

    workers = [threading.Thread(target=attempt, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return problems


def threads(subject: Subject, spec: RowSpec) -> Result:
    """Two threads, each on its own stream with its own inputs, get the same results as one alone."""
    kernel, seed = spec.kernel, spec.seed(subject.seed)
    pairs = [eager(subject, kernel, seed + number) for number in range(2)]
    problems = [problem for _, _, of_pair in pairs for problem in of_pair]
    wrong = [0, 0]

    def work(number: int) -> None:
        inputs, out, _ = pairs[number]
        with torch.cuda.device(subject.device):
            stream = torch.cuda.Stream(subject.device)
            for _ in range(TRIALS):
                result = behind_slow_work(subject, kernel, inputs.tensors, stream)
                wrong[number] += not same_bits(result, out)

    problems += in_two_threads(work)
    return _counted(problems, sum(wrong), 2 * TRIALS, "those of one thread")


def _counted(problems: list[str], wrong: int, trials: int, expected: str) -> Result:
    more = [f"{wrong} of {trials} results differ from {expected}"] if wrong else []
    figures = {"differing": float(wrong), "trials": float(trials)}
    return verdict(problems + more, figures, {"differing": "== 0"})


def launch_error(subject: Subject, spec: RowSpec) -> Result:
    """A batch that no grid can hold gives the right result or an exception."""
    kernel, seed = spec.kernel, spec.seed(subject.seed)
    generator = torch.Generator(device=subject.device).manual_seed(seed)
    shape = (MORE_THAN_A_GRID, 1, 1, 64)
    q, k, v = (
        torch.randn(shape, generator=generator, device=subject.device).to(torch.float16) for _ in range(3)
    )
    poison(subject.device)
    problems = []
    try:
        out = subject.call_checked(kernel, q, k, v)
        wrong = judge_output(out, v.float(), bounds(kernel, "fp16"))[0]
        problems += [f"no exception, and {problem}" for problem in wrong]
    except torch.cuda.OutOfMemoryError:
        return not_applicable("too little free memory on the GPU")
    except HiddenLaunchError as error:
        return verdict([f"the call returned; the next operation met its error: {error}"])
    except Exception as error:
        if subject.left_behind():
            problems.append(f"the exception ({one_line(error)}) left a CUDA error behind")
    return verdict(problems + eager(subject, kernel, seed)[2])


def compiled(subject: Subject, kernel: Kernel, seed: int, cases: Sequence[Case], **options: Any) -> list[str]:
    """Compile a function around the call, and compare its results for these cases with the right ones."""
    function = partial(getattr(subject.module, kernel.function), **dict(kernel.arguments))

    def around(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return function(q * 0.5, k, v, tensor_layout="HND", is_causal=False) * 2.0

    torch._dynamo.reset()
    problems = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.compile(around, **{"backend": "aot_eager", **options})
        for case in cases:
            q, k, v = make(case, seed, subject.device).tensors
            poison(subject.device)
            out = traced(q, k, v)
            right = attention(q * 0.5, k, v)[0] * 2
            wrong = judge_output(out, right, bounds(kernel, "fp16"))[0]
            problems += [f"{case.name}: {problem}" for problem in wrong]
    return problems


def _compiled(subject: Subject, spec: RowSpec, **options: Any) -> Result:
    cases = (Case((1024, 1024)), Case((640, 640)))
    return verdict(compiled(subject, spec.kernel, spec.seed(subject.seed), cases, **options))


aot_eager = partial(_compiled, fullgraph=False)
fullgraph = partial(_compiled, fullgraph=True)
inductor = partial(_compiled, fullgraph=True, backend="inductor")
