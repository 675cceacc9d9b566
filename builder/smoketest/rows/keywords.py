"""No argument is ignored: masks, scales and smoothing are honoured, and what can't be honoured is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import (
    attention,
    bounds,
    judge_lse,
    judge_output,
    relative_error,
    same_bits,
)
from builder.smoketest.attention.inputs import make, poison
from builder.smoketest.attention.subject import Attempts, Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, verdict
from builder.smoketest.rows.accuracy import wrong

CASE = Case((200, 333), head_dim=64, groups=2, batch=2)
MASKED_ROW = 7
NAMED = ("is_causal", "sm_scale", "smooth_k", "scale", "dropout_p", "enable_gqa")
NAMED_UNLESS_PACKED = ("tensor_layout", "return_lse", "attn_mask")


def _mask(subject: Subject, spec: RowSpec, *, kind: str) -> Result:
    """Compare a result under a mask with the right one; a row that is masked throughout is zero.

    With the logsumexp `sageattn` takes our kernel; what torch's gives for such a row depends on its kernel.
    """
    layout, lse = ("NHD", True) if kind == "padding" else ("HND", spec.kernel.key == "sageattn")
    inputs = make(replace(CASE, layout=layout), spec.seed(subject.seed), subject.device)
    q, k, v = inputs.heads_first(layout)
    mask = masks(kind, q, k.shape[2], spec.seed(subject.seed))
    poison(subject.device)
    arguments = {"tensor_layout": layout, "attn_mask": mask, "return_lse": lse}
    returned = subject.call_checked(spec.kernel, *inputs.tensors, **arguments)
    out = returned[0] if lse else returned
    right, right_lse = attention(q, k, v, mask=mask)
    out = out if layout == "HND" else out.transpose(1, 2)
    problems, figures, limits = judge_output(out, right, bounds(spec.kernel, "fp16"))
    if kind == "padding":
        problems += judge_lse(returned[1], right_lse)[0]
    return verdict(problems, figures, limits)


bool_mask = partial(_mask, kind="bool")
float_mask = partial(_mask, kind="float")
padding_mask = partial(_mask, kind="padding")


def masks(kind: str, q: torch.Tensor, keys: int, seed: int) -> torch.Tensor:
    """Return a mask: ``bool`` for each element, ``float`` for all heads, or keys to ``padding`` them."""
    generator = torch.Generator(device=q.device).manual_seed(seed)
    batch, heads, queries, _ = q.shape
    if kind == "padding":
        ends = torch.tensor([keys - 40 * (1 + i) for i in range(batch)], device=q.device)
        return (torch.arange(keys, device=q.device) < ends[:, None])[:, None, None, :]
    shape = (batch, heads, queries, keys) if kind == "bool" else (queries, keys)
    attended = torch.rand(shape, generator=generator, device=q.device) < 0.5
    attended[..., MASKED_ROW, :] = False
    if kind == "bool":
        return attended
    bias = 2 * torch.randn(shape, generator=generator, device=q.device)
    return bias.masked_fill(~attended, float("-inf")).to(q.dtype)


def no_mask(subject: Subject, spec: RowSpec) -> Attempts:
    """A mask that is all true gives the result of no mask; one that can't be honoured is refused by name."""
    q, k, v = make(CASE, spec.seed(subject.seed), subject.device).tensors
    shape = (q.shape[0], 1, q.shape[2], k.shape[2])
    true = torch.ones(shape, dtype=torch.bool, device=q.device)

    def all_true_in_inference() -> list[str]:
        with torch.inference_mode():
            return wrong(subject, spec.kernel, (q, k, v), attn_mask=true.clone())

    def refuses(*words: str, **arguments: Any) -> Callable[[], list[str]]:
        call = partial(subject.call_checked, spec.kernel, q, k, v, **arguments)
        return partial(subject.refused, call, ValueError, "attn_mask", *words)

    odd = true[..., :-1]
    attempts: Attempts = {
        "all true": partial(wrong, subject, spec.kernel, (q, k, v), attn_mask=true),
        "all true, in inference mode": all_true_in_inference,
        "another shape": refuses(str(tuple(odd.shape)), attn_mask=odd),
        "int64": refuses("int64", attn_mask=true.long()),
    }
    if not spec.kernel.total:
        attempts["with is_causal"] = refuses("is_causal", attn_mask=true, is_causal=True)
    return attempts


def refused(subject: Subject, spec: RowSpec) -> Attempts:
    """A bad value raises ValueError by name; an unknown keyword TypeError, with the nearest known one."""
    tensors = make(CASE, spec.seed(subject.seed), subject.device).tensors

    def refuses(kind: type[Exception], *words: str, **arguments: Any) -> Callable[[], list[str]]:
        call = partial(subject.attend, spec.kernel, *tensors, **arguments)
        return partial(subject.refused, call, kind, *words)

    attempts: Attempts = {
        "is_casual=True": refuses(TypeError, "is_casual", "is_causal", is_casual=True),
        "smoth_k=True": refuses(TypeError, "smoth_k", "smooth_k", smoth_k=True),
        "window=7": refuses(TypeError, "window", window=7),
        "sm_scale=0.1, scale=0.2": refuses(ValueError, "sm_scale", "0.1", "0.2", sm_scale=0.1, scale=0.2),
        "sm_scale=inf": refuses(ValueError, "sm_scale", sm_scale=float("inf")),
    }
    if not spec.kernel.total:
        attempts["dropout_p=0.5"] = refuses(ValueError, "dropout_p", dropout_p=0.5)
    return attempts


def accepted(subject: Subject, spec: RowSpec) -> Attempts:
    """Keywords that clients send without meaning anything by them change no bit, and are in the signature."""
    tensors = make(CASE, spec.seed(subject.seed), subject.device).tensors
    mask = {} if spec.kernel.varlen else {"attn_mask": None}
    harmless = {"dropout_p": 0.0, "enable_gqa": True, **mask}

    def signature() -> list[str]:
        names = inspect.signature(getattr(subject.module, spec.kernel.function)).parameters
        wanted = NAMED if spec.kernel.varlen else NAMED + NAMED_UNLESS_PACKED
        missing = [name for name in wanted if name not in names]
        return [f"lacks {', '.join(missing)}"] if missing else []

    def same() -> list[str]:
        plain = subject.attend(spec.kernel, *tensors)
        return [] if same_bits(subject.attend(spec.kernel, *tensors, **harmless), plain) else ["other bits"]

    return {"the signature": signature, f"with {harmless}": same}


def scales(subject: Subject, spec: RowSpec) -> Attempts:
    """``scale`` and ``sm_scale`` are the same, and either can be negative, zero or small."""
    tensors = make(CASE, spec.seed(subject.seed), subject.device).tensors

    def right(value: float, causal: bool = False, **scale: Any) -> Callable[[], list[str]]:
        exact = {"scale": value, "causal": causal}
        return partial(wrong, subject, spec.kernel, tensors, exact=exact, is_causal=causal, **scale)

    attempts: Attempts = {
        "sm_scale=0.05": right(0.05, sm_scale=0.05),
        "scale=0.05": right(0.05, scale=0.05),
        "both 0.05": right(0.05, scale=0.05, sm_scale=0.05),
        "sm_scale=-0.1": right(-0.1, sm_scale=-0.1),
        "scale=-0.1": right(-0.1, scale=-0.1),
        "sm_scale=0": right(0.0, sm_scale=0.0),
        "sm_scale=1e-6, causal": right(1e-6, True, sm_scale=1e-6),
    }
    return attempts


def smooth_k(subject: Subject, spec: RowSpec) -> Result:
    """``smooth_k=False`` reaches the kernel: where K has a mean, the result has more error.

    `sageattn` and `sageattn_varlen` ignore it: smoothing changes no right result.
    """
    tensors = make(replace(CASE, k_mean=True), spec.seed(subject.seed), subject.device).tensors
    right, _ = attention(*tensors)
    smooth, without = (
        relative_error(subject.attend(spec.kernel, *tensors, smooth_k=value), right)
        for value in (True, False)
    )
    problems = []
    if spec.kernel.total and not without <= 1.01 * smooth:
        problems = [f"more error with smooth_k=False ({without:.4f}) than without it ({smooth:.4f})"]
    if not spec.kernel.total and not without > smooth:
        problems = [f"no more error without it ({without:.4f}) than with it ({smooth:.4f})"]
    return verdict(problems, {"relative_error": smooth, "relative_error_without": without})
