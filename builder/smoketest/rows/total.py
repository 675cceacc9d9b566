"""`sageattn` takes whatever torch's attention takes: compared with exact attention, or with torch's."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import (
    FAMILIES,
    Tolerance,
    attention,
    judge_lse,
    judge_output,
    relative_error,
    same_bits,
)
from builder.smoketest.attention.inputs import make
from builder.smoketest.attention.subject import Attempts, Subject, run_python
from builder.smoketest.plan import RowSpec
from builder.smoketest.rows.accuracy import wrong

HALF = (torch.float16, torch.bfloat16)
LIMITS = {
    **dict.fromkeys(HALF, Tolerance(cosine=0.998, relative_error=0.05, worst_row=0.3)),
    torch.float32: Tolerance(cosine=0.99999, relative_error=2e-3, worst_row=1e-2),
    torch.float64: Tolerance(cosine=0.9999999, relative_error=1e-9, worst_row=1e-6),
}
"""By type; short rows and small head dims have larger errors than those of the accuracy rows."""
CASE = Case((200, 333), head_dim=64)
RANDOM_CALLS = 100
sdpa = torch.nn.functional.scaled_dot_product_attention


def _normal(subject: Subject, *shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape, device=subject.device).to(dtype)


def _right(
    subject: Subject, spec: RowSpec, q: Any, k: Any, v: Any, **arguments: Any
) -> Callable[[], list[str]]:
    """Return an attempt to compute in HND what attention in float64 does."""
    exact = {"dtype": torch.float64, "causal": arguments.get("is_causal", False)}
    exact |= {"mask": arguments.get("attn_mask")}
    limits = LIMITS[q.dtype]
    return partial(wrong, subject, spec.kernel, (q, k, v), limits=limits, exact=exact, **arguments)


def head_dims(subject: Subject, spec: RowSpec) -> Attempts:
    attempts = {}
    for dtype in HALF:
        for dim, v_dim in ((160, 160), (192, 192), (256, 256), (64, 128), (192, 128)):
            q, k = (_normal(subject, 2, 4, tokens, dim, dtype=dtype) for tokens in (200, 333))
            v = _normal(subject, 2, 4, 333, v_dim, dtype=dtype)
            attempts[f"{dim}, V of {v_dim}, {dtype}"] = _right(subject, spec, q, k, v)
            attempts[f"{dim}, V of {v_dim}, {dtype}, causal"] = _right(subject, spec, q, k, v, is_causal=True)
    return attempts


def types(subject: Subject, spec: RowSpec) -> Attempts:
    attempts = {}
    for dtype in (torch.float32, torch.float64):
        tensors = [_normal(subject, 2, 4, tokens, 64).to(dtype) for tokens in (100, 150, 150)]
        mask = torch.rand(100, 150, device=subject.device) < 0.7
        attempts[f"{dtype}"] = _right(subject, spec, *tensors)
        attempts[f"{dtype} with a mask"] = _right(subject, spec, *tensors, attn_mask=mask)
    return attempts


def cpu(subject: Subject, spec: RowSpec) -> Attempts:
    types = (*HALF, torch.float32)
    tensors = {dtype: [torch.randn(2, 4, 70, 64).to(dtype) for _ in range(3)] for dtype in types}
    return {str(dtype): _right(subject, spec, *of_type) for dtype, of_type in tensors.items()}


def dropout(subject: Subject, spec: RowSpec) -> Attempts:
    """With V of ones, an output is the sum of the weights that were kept: 1 on the average, with variance."""
    q, k = (_normal(subject, 2, 4, 256, 64) for _ in range(2))

    def dropped(p: float) -> list[str]:
        out = subject.attend(spec.kernel, q, k, torch.ones_like(k), dropout_p=p).float()
        mean, deviation = float(out.mean()), float(out.std())
        good = abs(mean - 1) < 0.02 and deviation > 0.01
        return [] if good else [f"the sum of the weights is {mean:.3f} with a deviation of {deviation:.4f}"]

    return {"0.1": partial(dropped, 0.1), "0.5": partial(dropped, 0.5)}


def masked_causal(subject: Subject, spec: RowSpec) -> Attempts:
    q, k, v = make(CASE, spec.seed(subject.seed), subject.device).tensors
    mask = torch.rand(CASE.lengths, device=subject.device) < 0.7
    mask[:, 0] = True
    bias = torch.randn(CASE.lengths, device=subject.device)
    return {
        "bool": _right(subject, spec, q, k, v, attn_mask=mask, is_causal=True),
        "float": _right(subject, spec, q, k, v, attn_mask=bias.half(), is_causal=True),
    }


def torchs_order(subject: Subject, _: RowSpec) -> Attempts:
    """The function with torch's signature, by position and by name, with any leading dimensions."""
    ours = subject.module.scaled_dot_product_attention

    def same(*tensors: torch.Tensor, rest: tuple[Any, ...] = (), **named: Any) -> list[str]:
        out, right = ours(*tensors, *rest, **named), sdpa(*tensors, *rest, **named)
        if out.shape != right.shape or out.dtype != right.dtype:
            return [f"{out.dtype} of {tuple(out.shape)} for {right.dtype} of {tuple(right.shape)}"]
        return judge_output(out, right, FAMILIES["fp8"])[0]

    tensors = [_normal(subject, 2, 4, tokens, 64) for tokens in (100, 150, 150)]
    grouped = [tensors[0], *(x[:, :2] for x in tensors[1:])]
    mask = torch.rand(2, 1, 100, 150, device=subject.device) < 0.7
    named = dict(zip(("query", "key", "value"), tensors, strict=True))
    return {
        "by position": partial(same, *tensors, rest=(mask, 0.0, False)),
        "by name": partial(same, **named, scale=0.2),
        "grouped": partial(same, *grouped, enable_gqa=True),
        "two dimensions": partial(same, *(x[0, 0] for x in tensors)),
        "three dimensions": partial(same, *(x[0] for x in tensors), is_causal=True),
        "five dimensions": partial(same, *(x.unflatten(0, (1, 2)) for x in tensors)),
    }


class _Model(torch.nn.Module):  # type: ignore[misc]
    """A model that knows nothing of us."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q * 0.5, k, v) * 2.0


def patched(subject: Subject, spec: RowSpec) -> Attempts:
    """In the context the model has our kernels (their error, not torch's), and after it torch's function."""
    model = _Model()
    # As many tokens as make our kernels the faster ones on any GPU.
    tokens = 8192 if subject.on_gpu else 512
    q, k, v = (_normal(subject, 1, 8, tokens, 128) for _ in range(3))
    rows = torch.arange(64, device=subject.device)
    right = attention(q * 0.5, k, v, rows=rows)[0] * 2
    before = model(q, k, v)
    explained = subject.module.explain(q, k, v)

    def inside(function: Callable[..., torch.Tensor]) -> list[str]:
        with subject.module.patched():
            out = function(q, k, v)
        problems = judge_output(out[:, :, :64], right, FAMILIES[spec.kernel.family])[0]
        if explained.kernel != "torch" and same_bits(out, before):
            problems.append("the result has the bits of torch's: nothing was replaced")
        return (
            problems if same_bits(model(q, k, v), before) else [*problems, "still replaced after the context"]
        )

    torch._dynamo.reset()
    compiled = torch.compile(_Model(), fullgraph=True, backend="aot_eager")
    return {"eager": partial(inside, model), "compiled": partial(inside, compiled)}


def lse(subject: Subject, spec: RowSpec) -> Attempts:
    def right(dim: int, dtype: torch.dtype, causal: bool, heads: int) -> list[str]:
        q, k, v = (_normal(subject, 2, *shape, dim).to(dtype) for shape in ((4, 100), *[(heads, 150)] * 2))
        out, lse = subject.attend(spec.kernel, q, k, v, return_lse=True, is_causal=causal)
        wanted, wanted_lse = attention(q, k, v, causal=causal)
        return judge_output(out, wanted, FAMILIES[spec.kernel.family])[0] + judge_lse(lse, wanted_lse)[0]

    kinds = product((64, 192), (torch.float16, torch.float32), (False, True), (4, 2))
    return {f"head_dim, type, causal, heads of K: {kind}": partial(right, *kind) for kind in kinds}


def strides(subject: Subject, spec: RowSpec) -> Attempts:
    """An output is contiguous in its layout, whoever computes it."""

    def contiguous(layout: str, dim: int, dtype: torch.dtype, **arguments: Any) -> list[str]:
        q, k, v = (_normal(subject, 2, 40, 40, dim).to(dtype) for _ in range(3))
        out = subject.call(spec.kernel, q, k, v, tensor_layout=layout, **arguments)
        out.view(2, 40, -1)
        return [] if out.is_contiguous() else [f"strides {out.stride()}"]

    return {
        f"{layout}, head_dim {dim}, {dtype}": partial(contiguous, layout, dim, dtype)
        for layout in ("HND", "NHD")
        for dim, dtype in (
            (64, torch.float16),
            (80, torch.float16),
            (192, torch.bfloat16),
            (64, torch.float32),
        )
    }


SCRIPT = """
import sys, warnings, torch, sageattention
torch.manual_seed(0)
q, k, v = (torch.randn(1, 8, 300, 64, device=sys.argv[1], dtype=torch.float16) for _ in range(3))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        sageattention.sageattn(q.float(), k.float(), v.float())
out, right = sageattention.sageattn(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v)
print(len([one for one in seen if "float32" in str(one.message)]))
print("torch" if sageattention.explain(q, k, v).kernel == "torch" else "sage")
print("torch" if torch.equal(out, right) else "sage")
"""


def in_a_process(subject: Subject, _: RowSpec) -> Attempts:
    """A warning comes once a process; an environment variable, read once, sets what computes."""

    def prints(value: str, *expected: str | None) -> list[str]:
        lines = run_python("-c", SCRIPT, subject.device, env={"SAGEATTENTION_KERNEL": value}).split()
        pairs = list(zip(lines, expected, strict=True))
        good = all(wanted is None or line == wanted for line, wanted in pairs)
        return [] if good else [f"warnings, explained and computed: {lines}, expected {list(expected)}"]

    attempts: Attempts = {
        "auto": partial(prints, "auto", "1", None, None),
        "torch": partial(prints, "torch", None, "torch", "torch"),
    }
    if subject.on_gpu and subject.capability >= (8, 0):
        attempts["sage"] = partial(prints, "sage", None, "sage", "sage")
    return attempts


def explained(subject: Subject, spec: RowSpec) -> Attempts:
    """What `explain` names gives what `sageattn` gives; with other options it may differ a little."""

    def agrees(tensors: list[torch.Tensor], **arguments: Any) -> list[str]:
        choice = subject.module.explain(*tensors, **arguments)
        if choice.kernel == "torch":
            right = sdpa(*tensors, **arguments)
        else:
            right = getattr(subject.module, choice.kernel)(*tensors, **arguments)
        problems = [] if choice.reason else ["gives no reason"]
        error = relative_error(subject.attend(spec.kernel, *tensors, **arguments), right)
        return problems + ([] if error <= 0.02 else [f"{choice.kernel} differs by {error:.4f}"])

    attempts = {}
    for tokens in (64, 1024, 8192 if subject.on_gpu else 600):
        tensors = [_normal(subject, 1, 8, tokens, 128, dtype=torch.bfloat16) for _ in range(3)]
        attempts[f"{tokens} tokens"] = partial(agrees, tensors)
        attempts[f"{tokens} tokens, causal"] = partial(agrees, tensors, is_causal=True)
    wide = [_normal(subject, 1, 4, 100, 256) for _ in range(3)]
    return {**attempts, "head_dim 256": partial(agrees, wide)}


def version(subject: Subject, _: RowSpec) -> Attempts:
    value = str(getattr(subject.module, "__version__", "missing"))
    return {"__version__": lambda: [] if value.startswith("2.") else [f"is {value!r}"]}


def other_kinds(subject: Subject, spec: RowSpec) -> Attempts:
    """Nested tensors and torch's causal biases: torch's answer, or one clear error."""
    q, k, v = (_normal(subject, 2, 4, 60, 64) for _ in range(3))

    def as_torch(tensors: list[Any], **arguments: Any) -> list[str]:
        call = partial(subject.call, spec.kernel, *tensors, **arguments)
        try:
            right = sdpa(*tensors, **arguments)
        except Exception:
            return []
        try:
            out = call()
        except (TypeError, ValueError):
            return []
        pairs = zip(out.unbind(), right.unbind(), strict=True)
        return [text for one, other in pairs for text in judge_output(one, other, FAMILIES["fp8"])[0]]

    def biased_lse() -> list[str]:
        bias = causal_upper_left(60, 60)
        _, lse = subject.call(spec.kernel, q, k, v, attn_mask=bias, return_lse=True)
        _, right = subject.call(spec.kernel, q, k, v, is_causal=True, return_lse=True)
        return [] if relative_error(lse, right) <= 0.01 else ["the logsumexp is another than with is_causal"]

    def remembered() -> list[str]:
        """A call is right after one with the same sizes and strides, but for what decides."""
        for _ in range(2):
            subject.call(spec.kernel, q, k, v)
        wrong = [(k, v[:, :, :50]), (k[:, :, :50], v), (k.double(), v)]
        problems = as_torch([q, k[:, :, :50], v[:, :, :50]])
        for pair in wrong:
            problems += subject.refused(partial(subject.call, spec.kernel, q, *pair), ValueError)
        return problems

    def leading(*shape: int) -> list[str]:
        function = subject.module.scaled_dot_product_attention
        tensors = [_normal(subject, *shape[:-2], tokens, 64) for tokens in (shape[-2], 5, 5)]
        return [] if function(*tensors).shape == shape else ["has another shape"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = [
            torch.nested.nested_tensor([x[0, 0], x[1, 0, :40]], layout=torch.jagged)
            .unflatten(-1, (4, 16))
            .transpose(1, 2)
            for x in (q, k, v)
        ]
        strided = [torch.nested.nested_tensor([x[0], x[1, :, :40]]) for x in (q, k, v)]
    biased = partial(as_torch, [q, k, v], attn_mask=causal_lower_right(60, 60))
    return {
        "causal_lower_right": biased,
        "causal_upper_left, logsumexp": biased_lse,
        "nested": partial(as_torch, nested),
        "nested, strided": partial(as_torch, strided),
        "a remembered call": remembered,
        "no queries, 3 dimensions": partial(leading, 8, 0, 64),
        "no queries, 5 dimensions": partial(leading, 2, 3, 8, 0, 64),
    }


# It ends with 1 where it has advice.
DOCTOR = """
import runpy
try:
    runpy.run_module("sageattention", run_name="__main__")
except SystemExit as end:
    assert end.code in (None, 0, 1), end.code
"""


def doctor(_subject: Subject, _: RowSpec) -> Attempts:
    def short() -> list[str]:
        lines = run_python("-c", DOCTOR).splitlines()
        named = "sageattention" in lines[0].lower() and any("torch" in line for line in lines)
        return [] if named and 4 <= len(lines) <= 14 else [f"printed {len(lines)} lines: {lines[:2]}"]

    return {"python -m sageattention": short}


def random_calls(subject: Subject, spec: RowSpec) -> Attempts:
    """Calls over what torch takes, each against float64."""
    chance = random.Random(  # noqa: S311
        spec.seed(subject.seed)
    )
    attempts: Attempts = {}
    for number in range(RANDOM_CALLS):
        batch, groups, heads = chance.choice((1, 2, 3)), chance.choice((1, 1, 2, 4)), chance.choice((1, 2, 3))
        queries, keys = chance.choice((1, 5, 64, 77, 130, 300)), chance.choice((1, 9, 77, 128, 257, 400))
        dim = chance.choice((8, 40, 64, 72, 96, 128, 160, 256))
        dtype = chance.choice((torch.float16, torch.bfloat16, torch.float16, torch.bfloat16, torch.float32))
        q = _normal(subject, batch, heads * groups, queries, dim).to(dtype)
        k = _normal(subject, batch, heads, keys, dim).to(dtype)
        v = _normal(subject, batch, heads, keys, chance.choice((dim, dim, dim, 32))).to(dtype)
        arguments: dict[str, Any] = {"is_causal": chance.random() < 0.3}
        if chance.random() < 0.4:
            shape = (batch, 1, chance.choice((1, queries)), keys)
            bias = torch.randn(shape, device=subject.device)
            bias[..., 0] = 0  # no row is masked throughout, since torch's kernels differ there
            arguments["attn_mask"] = bias < 1 if chance.random() < 0.5 else bias.to(dtype)
        name = f"{number}: {tuple(q.shape)}, {tuple(v.shape)}, {dtype}, {arguments['is_causal']}"
        attempts[name] = _right(subject, spec, q, k, v, **arguments)
    return attempts
