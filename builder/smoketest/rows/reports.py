"""What users reported of this and other attention libraries: each case with the right answer."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from builder.smoketest.attention import client_calls
from builder.smoketest.attention.cases import Case, VarlenCase
from builder.smoketest.attention.compare import (
    attention,
    bounds,
    judge_output,
    packed_attention,
    same_bits,
)
from builder.smoketest.attention.inputs import make, make_packed, poison
from builder.smoketest.attention.kernels import Kernel, kernels_for
from builder.smoketest.attention.subject import Attempts, Subject, run_python
from builder.smoketest.plan import RowSpec, client_kernel
from builder.smoketest.report import Result, not_applicable
from builder.smoketest.rows.accuracy import wrong
from builder.smoketest.rows.calls import made
from builder.smoketest.rows.runtime.streams import capture, compiled

CASE = Case((200, 333), head_dim=64, groups=2)
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _inputs(subject: Subject, spec: RowSpec, case: Case = CASE) -> Tensors:
    return make(case, spec.seed(subject.seed), subject.device).tensors


def _kernels(subject: Subject, *names: str) -> list[Kernel]:
    """Return the kernels of these names, and the primary ones that a function names."""
    kernels = [kernel for kernel in kernels_for(subject.capability) if not kernel.why_not(subject.capability)]
    return [kernel for kernel in kernels if kernel.key in names or (kernel.primary and not kernel.total)]


def float_masks(subject: Subject, spec: RowSpec) -> Attempts:
    """Float masks of every type at the largest head dims, and rows of them at the lowest number."""
    attempts: Attempts = {}
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        for dim in (96, 128):
            tensors = _inputs(subject, spec, Case((200, 333), head_dim=dim, dtype=name))
            for mask_dtype in (dtype, torch.float32):
                mask = torch.randn(200, 333, device=subject.device).to(mask_dtype)
                for kernel in _kernels(subject, "sageattn")[:2]:  # the others take the second one's
                    label = f"{kernel.key}, head_dim {dim}, {dtype}, mask of {mask_dtype}"
                    exact = {"mask": mask}
                    attempts[label] = partial(wrong, subject, kernel, tensors, exact=exact, attn_mask=mask)
    q, k, v = _inputs(subject, spec)

    def lowest() -> list[str]:
        mask = torch.zeros(200, 333, device=subject.device, dtype=q.dtype)
        mask[:7] = torch.finfo(q.dtype).min
        mask[7:, 100:] = torch.finfo(q.dtype).min
        out = subject.attend(spec.kernel, q, k, v, attn_mask=mask)
        right, _ = attention(q, k, v, mask=mask)
        return judge_output(out[:, :, 7:], right[:, :, 7:], bounds(spec.kernel, "fp16"))[0]

    return {**attempts, "rows of -finfo.max": lowest}


def keywords(subject: Subject, spec: RowSpec) -> Attempts:
    """A value that asks for nothing is accepted whatever its name; what asks for something unknown is not."""
    q, k, v = _inputs(subject, spec)
    flash = {"softmax_scale": None, "causal": False, "window_size": (-1, -1), "softcap": 0.0}
    harmless: dict[str, dict[str, Any]] = {
        "attention_dropout=0.0, causal=False": {"attention_dropout": 0.0, "causal": False},
        "is_causal=None, return_lse=None": {"is_causal": None, "return_lse": None},
        "flash-attention's names": {**flash, "alibi_slopes": None, "return_softmax": False},
    }
    named: dict[str, Any] = {"causal": True, "softmax_scale": 0.1}
    attempts: Attempts = {}
    for kernel in _kernels(subject, "sageattn", "varlen"):
        call = partial(subject.attend, kernel, q, k, v)
        for name, arguments in harmless.items():
            if not (kernel.varlen and "return_lse" in arguments):
                attempts[f"{kernel.key}, {name}"] = partial(wrong, subject, kernel, (q, k, v), **arguments)
        exact = {"causal": True, "scale": 0.1}
        attempts[f"{kernel.key}, {named}"] = partial(wrong, subject, kernel, (q, k, v), exact=exact, **named)
        for unknown in ({"softcap": 30.0}, {"window_size": (128, 0)}, {"alibi_slopes": torch.ones(8)}):
            refused = partial(subject.refused, partial(call, **unknown), TypeError, next(iter(unknown)))
            attempts[f"{kernel.key}, {next(iter(unknown))}"] = refused
    order = partial(subject.call, spec.kernel, q, k, v, None, 0.0, False)
    words = ("tensor_layout", "scaled_dot_product_attention")
    return {**attempts, "torch's order": partial(subject.refused, order, Exception, *words)}


def packed(subject: Subject, spec: RowSpec) -> Attempts:
    """Packed sequences in a longer buffer whose rest is garbage; and the layout that frameworks name."""
    case = VarlenCase(((100, 80), (400, 500), (60, 300)))
    varlen = _kernels(subject, "varlen")[-1]

    def garbage(value: float, sequences: tuple[tuple[int, int], ...], **layout: Any) -> list[str]:
        inputs, arguments = make_packed(VarlenCase(sequences), spec.seed(subject.seed), subject.device)
        longer = [
            torch.cat((x, torch.full((77, *x.shape[1:]), value, dtype=x.dtype, device=x.device)))
            for x in inputs.tensors
        ]
        poison(subject.device)
        out = subject.call_checked(varlen, *longer, *arguments[3:], **layout)
        used = inputs.tensors[0].shape[0]
        right = packed_attention(*inputs.tensors, sequences=sequences, causal=False)
        return judge_output(out[:used], right, bounds(varlen, "fp16"))[0]

    arguments = make_packed(case, spec.seed(subject.seed), subject.device)[1]
    refused = partial(subject.call, varlen, *arguments, tensor_layout="HND")
    attempts: Attempts = {"HND": partial(subject.refused, refused, ValueError, "tensor_layout")}
    for value in (0.0, float("inf"), float("nan"), 6e4):
        attempts[f"rows of {value} after the last"] = partial(garbage, value, case.sequences)
        attempts[f"rows of {value} after a long one"] = partial(garbage, value, ((1100, 1100),))
    return {**attempts, "NHD": partial(garbage, 0.0, case.sequences, tensor_layout="NHD")}


def mask_written_later(subject: Subject, spec: RowSpec) -> Attempts:
    """A mask's present content counts, however it was written: by `.data`, or before a graph's replay."""
    q, k, v = _inputs(subject, spec)
    shape = (200, 333)
    half = torch.arange(333, device=subject.device).expand(shape) < 100

    def through_data(kernel: Kernel) -> list[str]:
        mask = torch.ones(shape, dtype=torch.bool, device=subject.device)
        for _ in range(2):
            subject.call_checked(kernel, q, k, v, attn_mask=mask)
        mask.data.copy_(half)
        return wrong(subject, kernel, (q, k, v), exact={"mask": half}, attn_mask=mask)

    def replayed(kernel: Kernel) -> list[str]:
        mask = torch.ones(shape, dtype=torch.bool, device=subject.device)
        graph, out = capture(subject, partial(subject.call, kernel, q, k, v, attn_mask=mask))
        mask.copy_(half)
        graph.replay()
        torch.cuda.synchronize(subject.device)
        return judge_output(out, attention(q, k, v, mask=half)[0], bounds(kernel, "fp16"))[0]

    attempts: Attempts = {}
    for kernel in _kernels(subject, "sageattn"):
        attempts[f"{kernel.key}, .data"] = partial(through_data, kernel)
        if subject.on_gpu:
            attempts[f"{kernel.key}, a graph"] = partial(replayed, kernel)
    return attempts


def learnt_bias(subject: Subject, spec: RowSpec) -> Attempts:
    """A mask that requires grad has a gradient, or backward() raises."""
    q, k, v = _inputs(subject, spec)

    def back(kernel: Kernel) -> list[str]:
        bias = torch.zeros(200, 333, device=subject.device, dtype=q.dtype, requires_grad=True)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = subject.attend(kernel, q, k, v, attn_mask=bias)
            if not out.requires_grad:
                return ["no gradient and no error"]
            if not kernel.total:
                return subject.refused(out.float().sum().backward, RuntimeError, "backward")
            out.float().sum().backward()
        return [] if bias.grad is not None else ["no gradient"]

    return {kernel.key: partial(back, kernel) for kernel in _kernels(subject, "sageattn")}


def dynamic(subject: Subject, spec: RowSpec) -> Attempts:
    """`torch.compile` with lengths, and head dims, that change between calls."""
    lengths = tuple(Case((tokens, tokens + 33)) for tokens in (128, 200, 1000))
    dims = tuple(Case((200, 200), head_dim=dim) for dim in (128, 64, 96, 40))
    attempts: Attempts = {}
    kernels = _kernels(subject, "sageattn")
    for kernel in (kernels[0], kernels[-1]):
        one = partial(compiled, subject, kernel, spec.seed(subject.seed), fullgraph=True)
        attempts[f"{kernel.key}, dynamic"] = partial(one, (*lengths, *dims), dynamic=True)
        attempts[f"{kernel.key}, head dims"] = partial(one, dims)
    return attempts


class _Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Keeps each operator of ours with the arguments of its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "sage" in function.namespace and function not in self.calls:
            copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
            self.calls[function] = (tuple(copies), kwargs or {})
        return function(*args, **(kwargs or {}))


def opcheck(subject: Subject, spec: RowSpec) -> Attempts | Result:
    """Every operator passes `torch.library.opcheck`: its fake promises what it makes, strides included."""
    recorder = _Recorder()
    with recorder:
        for kernel in kernels_for(subject.capability):
            if not kernel.varlen and not kernel.why_not(subject.capability):
                for lse in (False, True):
                    subject.call(kernel, *_inputs(subject, spec), return_lse=lse)
        for call in client_calls.load()["calls"]:
            if all("launch" not in step and "compiled" not in step for step in call["steps"]):
                with suppress(Exception):  # a row of its own says so
                    made(subject, RowSpec(spec.group, client_kernel(call), call["case"], spec.run))
    if not recorder.calls:
        return not_applicable("the package has no operators")

    def checked(operator: Any, args: Any, kwargs: Any) -> list[str]:
        tests = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
        # The schema's test multiplies tensors to compare them, which float8 can't.
        if all(getattr(x, "dtype", None) != torch.float8_e4m3fn for x in args):
            tests.append("test_schema")
        torch.library.opcheck(operator, args, kwargs, test_utils=tests)
        return []

    return {str(operator): partial(checked, operator, *call) for operator, call in recorder.calls.items()}


def autocast(subject: Subject, spec: RowSpec) -> Attempts:
    """Autocast changes no bit and no type."""
    q, k, v = _inputs(subject, spec)

    def same(kernel: Kernel) -> list[str]:
        plain = subject.attend(kernel, q, k, v)
        with torch.autocast(subject.device.split(":")[0], dtype=torch.bfloat16):
            inside = subject.attend(kernel, q, k, v)
        return [] if inside.dtype == plain.dtype and same_bits(inside, plain) else ["differs under autocast"]

    return {kernel.key: partial(same, kernel) for kernel in _kernels(subject, "sageattn", "varlen")}


def broken_library(subject: Subject, _: RowSpec) -> Attempts | Result:
    """A library that does not load is an ImportError that names it, so that `except ImportError` guards."""
    package = Path(subject.module.__file__ or "").parent
    libraries = sorted(path.relative_to(package) for path in package.rglob("*.so"))[:2]
    if not libraries:
        return not_applicable("the package has no libraries")

    def named(library: Path) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, Path(folder) / part.name)
            (Path(folder) / package.name / library).write_bytes(b"not a library")
            script = (
                f"import sys; sys.path.insert(0, {folder!r})\n"
                "try: import sageattention\n"
                "except ImportError as error: print(error)"
            )
            output = run_python("-c", script)
        return [] if library.name in output else [f"printed {output.strip() or 'nothing'!r}"]

    return {str(library): partial(named, library) for library in libraries}


EXPORT = """
import os, sys, torch
device, ahead = sys.argv[1], sys.argv[2] == "ahead"
attention = torch.nn.functional.scaled_dot_product_attention
if sys.argv[4] == "sageattention":
    from sageattention import sageattn as attention
class Model(torch.nn.Module):
    def forward(self, q, k, v):
        return attention(q, k, v) * 2.0
def inputs(tokens):
    torch.manual_seed(0)
    return tuple(torch.randn(1, 8, tokens, 64, device=device, dtype=torch.float16) for _ in range(3))
length = torch.export.Dim("length", min=16, max=4096)
try:
    program = torch.export.export(Model(), inputs(512), dynamic_shapes=({2: length},) * 3)
    run = program.module()
    if ahead:
        path = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[3])
        run = torch._inductor.aoti_load_package(path)
except Exception as error:
    print("refused:", type(error).__name__)
    sys.exit()
with torch.no_grad():
    for tokens in (512, 300):
        q, k, v = inputs(tokens)
        right = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float()) * 2
        print(float((run(q, k, v).float() - right).norm() / right.norm()) < 0.05)
"""


def _exported(subject: Subject, _: RowSpec, *, kind: str) -> Attempts | Result:
    """An exported module with a dynamic length is right, or refused by an exception; no process dies."""

    def problem_of(attention: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (subject.device, kind, f"{folder}/model.pt2", attention)
            try:
                output = run_python("-c", EXPORT, *arguments, limit_s=140.0)
            except RuntimeError as error:
                return str(error)
        good = output.startswith("refused") or output.split() == ["True", "True"]
        return "" if good else f"printed {output.split()}"

    problem = problem_of("sageattention")
    if problem and (same := problem_of("torch")):
        return not_applicable(f"torch's own attention fails here too: {same}")
    return {kind: lambda: [problem] if problem else []}


exported = partial(_exported, kind="export")
exported_ahead = partial(_exported, kind="ahead")
