"""How the kernels behave in company: streams, graphs, threads, devices, compilers, errors."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from builder.smoketest import limits
from builder.smoketest import plan as names
from builder.smoketest.cases import Case, VarlenCase
from builder.smoketest.inputs import Inputs, make, make_packed, poison
from builder.smoketest.kernels import Kernel
from builder.smoketest.reference import attention, difference
from builder.smoketest.rows import modules
from builder.smoketest.rows.accuracy import judge_output
from builder.smoketest.rows.accuracy import run as run_accuracy
from builder.smoketest.rows.result import Result, not_applicable, verdict
from builder.smoketest.subject import HiddenLaunchError, Subject, one_line

TRIALS = 5
SLOW_CYCLES = 40_000_000
"""Clock cycles that the slow work takes: above 12 ms on every GPU of today, longer than a call's launches."""
MORE_THAN_A_GRID = 65_536
"""One batch more than a grid's z dimension may have (CUDA C++ Programming Guide, compute capabilities)."""
CASE = Case((1024, 1024), return_lse=False)


def run(subject: Subject, kernel: Kernel, name: str, seed: int) -> Result:
    """One conduct row, by its name in `builder.smoketest.plan`."""
    if name == names.MODULE_LEVEL:
        return modules.run(subject, kernel.module, seed)
    if name == names.MODULE_LAUNCH_ERROR:
        return (
            modules.launch_errors(subject, kernel.module) if subject.on_gpu else not_applicable("needs a GPU")
        )
    if not subject.on_gpu and name not in (names.BAD_INPUT,):
        return not_applicable("needs a GPU")
    if name == names.POISON:
        return poison_works(subject)
    rows: dict[str, Callable[[Subject, Kernel, int], Result]] = {
        names.SIDE_STREAM: side_stream,
        names.GRAPH: graph,
        names.THREADS: threads,
        names.SECOND_GPU: second_gpu,
        names.LAUNCH_ERROR: launch_error,
        names.BAD_INPUT: bad_input,
        names.COMPILE: partial(compiled, fullgraph=False, backend="aot_eager"),
        names.COMPILE_FULLGRAPH: partial(compiled, fullgraph=True, backend="aot_eager"),
        names.COMPILE_INDUCTOR: partial(compiled, fullgraph=True, backend="inductor"),
    }
    return rows[name](subject, kernel, seed)


@dataclass(frozen=True)
class Eager:
    """Inputs, and what an ordinary call on the default stream makes of them."""

    inputs: Inputs
    out: torch.Tensor
    problems: list[str]


def poison_works(subject: Subject) -> Result:
    """New tensors hold NaN after poisoning: without that, the other rows would not see what nobody wrote."""
    poison(subject.device)
    clean = []
    for size in (512, 2**16, 2**20, 2**22, 2**26):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            fresh = torch.empty(size // dtype.itemsize, dtype=dtype, device=subject.device)
            if not bool(torch.isnan(fresh.float()).all()):
                clean.append(f"{size} bytes of {dtype} are not all NaN")
            del fresh
            poison(subject.device)
    return verdict(clean, {}, {})


def eager(subject: Subject, kernel: Kernel, seed: int, case: Case = CASE) -> Eager:
    """Call a kernel twice as usual; its problems are a wrong result, or two results that differ.

    Rows that compare with an eager call start here: two equal wrong results prove nothing.
    """
    inputs = make(case, seed, subject.device)
    poison(subject.device)
    out = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout).clone()
    again = subject.call_checked(kernel, *inputs.tensors, tensor_layout=case.layout)
    right, _ = attention(*inputs.heads_first(case.layout))
    broken, _, _ = judge_output(out, right, limits.bounds(kernel, "fp16"))
    problems = [f"already wrong on the default stream ({'; '.join(broken)})"] if broken else []
    if not problems and not same_bits(out, again):
        problems = ["two calls on the default stream differ"]
    return Eager(inputs, out, problems)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bytes (a NaN equals itself)."""
    return bool(torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)))


def slow_work() -> None:
    """Keep the current stream busy for some ten milliseconds."""
    torch.cuda._sleep(SLOW_CYCLES)


def staged(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Tensors like these, full of NaN."""
    return tuple(torch.full_like(tensor, float("nan")) for tensor in tensors)


def behind_slow_work(
    subject: Subject, kernel: Kernel, tensors: tuple[torch.Tensor, ...], stream: torch.cuda.Stream
) -> torch.Tensor:
    """Call a kernel on a side stream, its inputs arriving late: after slow work on the same stream.

    A kernel that is launched on any other stream starts before its inputs are there.
    """
    late = staged(tensors)
    torch.cuda.current_stream(subject.device).synchronize()
    with torch.cuda.stream(stream):
        slow_work()
        for destination, source in zip(late, tensors, strict=True):
            destination.copy_(source)
        kept: torch.Tensor = subject.call(kernel, *late, tensor_layout=CASE.layout).clone()
    stream.synchronize()
    return kept


def side_stream(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """Results on a side stream equal those on the default stream, bit by bit."""
    plain = eager(subject, kernel, seed)
    stream = torch.cuda.Stream(subject.device)
    with torch.cuda.stream(stream):
        poison(subject.device)
    wrong = sum(
        not same_bits(behind_slow_work(subject, kernel, plain.inputs.tensors, stream), plain.out)
        for _ in range(TRIALS)
    )
    problems = list(plain.problems)
    if wrong:
        problems.append(f"{wrong} of {TRIALS} results differ from the default stream's")
    return verdict(problems, {"differing": float(wrong), "trials": float(TRIALS)}, {"differing": "== 0"})


def graph(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """A graph captured once and replayed after its inputs were overwritten equals an eager call on them."""
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
    return verdict(problems, {}, {})


def threads(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """Two threads, each on its own stream with its own inputs, get what one gets alone."""
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
    problems += errors
    if sum(wrong):
        problems.append(f"{sum(wrong)} of {2 * TRIALS} results differ from those of one thread")
    return verdict(problems, {"differing": float(sum(wrong)), "trials": 2.0 * TRIALS}, {"differing": "== 0"})


def second_gpu(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """Tensors on cuda:1 while cuda:0 is current: right, and cuda:0 is current still."""
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return not_applicable(f"needs two GPUs, torch sees {gpus}")
    there = torch.cuda.get_device_capability(1)
    if there != subject.capability:
        return not_applicable(f"the second GPU has another compute capability, {there[0]}.{there[1]}")
    torch.cuda.set_device(0)
    elsewhere = Subject(subject.module, "cuda:1", subject.capability)
    case: Case | VarlenCase = VarlenCase(((333, 333), (640, 640))) if kernel.varlen else CASE
    if isinstance(case, VarlenCase):
        arguments = make_packed(case, seed, "cuda:1").arguments
    else:
        arguments = make(case, seed, "cuda:1").tensors
    problems = []
    try:
        elsewhere.call(kernel, *arguments)
        after = torch.cuda.current_device()
        if after != 0:
            problems.append(f"the caller's current device was changed from 0 to {after}")
        torch.cuda.set_device(0)
        problems += [problem for problem in [run_accuracy(elsewhere, kernel, case, seed).reason] if problem]
    finally:
        torch.cuda.set_device(0)
    return verdict(problems, {}, {"current_device": "== 0"})


def launch_error(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """A batch that no grid can hold: the right answer or an exception, never a return as if all was well."""
    case = Case((1, 1), head_dim=64, batch=MORE_THAN_A_GRID)
    generator = torch.Generator(device=subject.device).manual_seed(seed)
    shape = (case.batch, 1, 1, case.head_dim)
    q, k, v = (
        torch.randn(shape, generator=generator, device=subject.device).to(torch.float16) for _ in range(3)
    )
    poison(subject.device)
    raised = ""
    out = None
    try:
        out = subject.call_checked(kernel, q, k, v)
    except torch.cuda.OutOfMemoryError:
        return not_applicable("too little free memory on the GPU")
    except HiddenLaunchError as error:
        return verdict([f"the call returned; the next operation met its error: {error}"], {}, {})
    except Exception as error:
        raised = one_line(error)
    problems = []
    if out is not None:
        wrong = judge_output(out, v.float(), limits.bounds(kernel, "fp16"))[0]
        problems += [f"no exception, and {problem}" for problem in wrong]
    if subject.left_behind():
        problems.append(f"the exception ({raised}) left a CUDA error behind")
    problems += eager(subject, kernel, seed).problems
    return verdict(problems, {}, {})


def bad_input(subject: Subject, kernel: Kernel, seed: int) -> Result:
    """Inputs that no kernel takes raise an exception, and the next call works."""
    device = subject.device

    def normal(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    good = normal(1, 4, 128, 64)
    attempts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {
        "head_dim 256": (normal(1, 4, 128, 256),) * 3,
        "fp32": (normal(1, 4, 128, 64, dtype=torch.float32),) * 3,
        "two types": (good, good, good.to(torch.bfloat16)),
        "a last dimension that is not contiguous": (normal(1, 4, 64, 128).transpose(2, 3),) * 3,
    }
    if subject.on_gpu:
        attempts["tensors on the CPU"] = (good.cpu(), good.cpu(), good.cpu())
    if "cuda-" in kernel.key or "sm90" in kernel.key:
        attempts["6 query heads to 4 key heads"] = (normal(1, 6, 128, 64), good, good)
    taken = []
    for name, tensors in attempts.items():
        try:
            subject.call_checked(kernel, *tensors)
        except Exception as error:
            left = subject.left_behind()
            if isinstance(error, HiddenLaunchError) or left:
                taken.append(f"{name}: left a CUDA error behind: {left or error}")
            continue
        taken.append(f"{name}: taken without an exception")
    return verdict(taken + eager(subject, kernel, seed).problems, {"attempts": float(len(attempts))}, {})


def compiled(subject: Subject, kernel: Kernel, seed: int, *, fullgraph: bool, backend: str) -> Result:
    """A compiled function around the call equals the same function uncompiled, at two lengths.

    Equal within rounding: a compiler may take the mean of K in another order, which moves a few int8 values
    by one. The compiled result is also held against fp32 attention.
    """
    function = partial(getattr(subject.module, kernel.function), **dict(kernel.arguments))

    def around(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return function(q * 0.5, k, v, tensor_layout="HND", is_causal=False) * 2.0

    torch._dynamo.reset()
    problems = []
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.compile(around, fullgraph=fullgraph, backend=backend)
        for tokens in (CASE.lengths[0], 640):
            inputs = make(Case((tokens, tokens)), seed + tokens, subject.device)
            poison(subject.device)
            uncompiled = around(inputs.q, inputs.k, inputs.v).float()
            poison(subject.device)
            out = one(inputs.q, inputs.k, inputs.v)
            right = attention(inputs.q * 0.5, inputs.k, inputs.v)[0] * 2
            wrong = judge_output(out, right, limits.bounds(kernel, "fp16"))[0]
            problems += [f"{tokens} tokens: {problem}" for problem in wrong]
            seen = difference(out, uncompiled)
            figures[f"cosine_to_eager_{tokens}"] = seen.cosine
            if not seen.cosine >= limits.FAMILIES["fp16"].cosine:
                problems.append(f"{tokens} tokens: cosine to the eager call {seen.cosine:.6f} < 0.9999")
    return verdict(problems, figures, {"cosine_to_eager": ">= 0.9999"})
