"""No argument is ignored: masks, scales and smoothing are honoured, and what can't be honoured is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import make, poison
from builder.smoketest.attention.kernels import Kernel
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_lse, judge_output
from builder.smoketest.rows.conduct.streams import same_bits

CASE = Case((200, 333), head_dim=64, groups=2, batch=2, return_lse=False)
MASKED_ROW = 7
NAMED = ("is_causal", "sm_scale", "smooth_k", "scale", "dropout_p", "enable_gqa")
NAMED_UNLESS_PACKED = ("tensor_layout", "return_lse", "attn_mask")


def _mask(subject: Subject, check: Check, *, kind: str) -> Result:
    """Compare a result under a mask with the right one; a row that is masked throughout is zero."""
    layout = "NHD" if kind == "padding" else "HND"
    inputs = make(Case(**{**vars(CASE), "layout": layout}), check.seed(subject.seed), subject.device)
    q, k, v = inputs.heads_first(layout)
    mask = masks(kind, q, k.shape[2], check.seed(subject.seed))
    poison(subject.device)
    lse = kind == "padding"
    returned = subject.call_checked(
        check.kernel, *inputs.tensors, tensor_layout=layout, attn_mask=mask, return_lse=lse
    )
    out = returned[0] if lse else returned
    right, right_lse = attention(q, k, v, mask=mask)
    out = out if layout == "HND" else out.transpose(1, 2)
    problems, figures, limits = judge_output(out, right, tolerances.bounds(check.kernel, "fp16"))
    if lse:
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


def no_mask(subject: Subject, check: Check) -> Result:
    """A mask that is all true gives the bits of no mask; one that can't be honoured is refused by name."""
    q, k, v = make(CASE, check.seed(subject.seed), subject.device).tensors
    shape = (q.shape[0], 1, q.shape[2], k.shape[2])
    true = torch.ones(shape, dtype=torch.bool, device=q.device)
    call = partial(subject.call_checked, check.kernel, q, k, v)

    def all_true() -> list[str]:
        return [] if same_bits(call(attn_mask=true), call()) else ["differs from no mask"]

    def all_true_in_inference() -> list[str]:
        with torch.inference_mode():
            return [] if same_bits(call(attn_mask=true.clone()), call()) else ["differs from no mask"]

    def refuses(*words: str, **arguments: Any) -> Callable[[], list[str]]:
        return lambda: subject.refused(partial(call, **arguments), ValueError, "attn_mask", *words)

    odd = true[..., :-1]
    attempts = {
        "all true": all_true,
        "all true, in inference mode": all_true_in_inference,
        "with is_causal": refuses("is_causal", attn_mask=true, is_causal=True),
        "another shape": refuses(str(tuple(odd.shape)), attn_mask=odd),
        "int64": refuses("int64", attn_mask=true.long()),
    }
    return verdict(problems_of(attempts), {"attempts": float(len(attempts))})


def refused(subject: Subject, check: Check) -> Result:
    """A bad value raises ValueError by name; an unknown keyword TypeError, with the nearest known one."""
    tensors = make(CASE, check.seed(subject.seed), subject.device).tensors

    def refuses(kind: type[Exception], *words: str, **arguments: Any) -> Callable[[], list[str]]:
        call = partial(subject.attend, check.kernel, *tensors, **arguments)
        return partial(subject.refused, call, kind, *words)

    attempts = {
        "is_casual=True": refuses(TypeError, "is_casual", "is_causal", is_casual=True),
        "smoth_k=False": refuses(TypeError, "smoth_k", "smooth_k", smoth_k=False),
        "window=7": refuses(TypeError, "window", window=7),
        "dropout_p=0.5": refuses(ValueError, "dropout_p", dropout_p=0.5),
        "sm_scale=0.1, scale=0.2": refuses(ValueError, "sm_scale", "0.1", "0.2", sm_scale=0.1, scale=0.2),
        "sm_scale=inf": refuses(ValueError, "sm_scale", sm_scale=float("inf")),
    }
    return verdict(problems_of(attempts), {"attempts": float(len(attempts))})


def accepted(subject: Subject, check: Check) -> Result:
    """Keywords that clients send without meaning anything by them change no bit, and are in the signature."""
    tensors = make(CASE, check.seed(subject.seed), subject.device).tensors
    mask = {} if check.kernel.varlen else {"attn_mask": None}
    given = {"dropout_p": 0.0, "enable_gqa": True, **mask}

    def signature() -> list[str]:
        names = inspect.signature(getattr(subject.module, check.kernel.function)).parameters
        wanted = NAMED if check.kernel.varlen else NAMED + NAMED_UNLESS_PACKED
        missing = [name for name in wanted if name not in names]
        return [f"lacks {', '.join(missing)}"] if missing else []

    def same() -> list[str]:
        plain = subject.attend(check.kernel, *tensors)
        return [] if same_bits(subject.attend(check.kernel, *tensors, **given), plain) else ["other bits"]

    return verdict(problems_of({"the signature": signature, f"with {given}": same}))


def scales(subject: Subject, check: Check) -> Result:
    """``scale`` and ``sm_scale`` are the same, and either can be negative, zero or small."""
    tensors = make(CASE, check.seed(subject.seed), subject.device).tensors

    def right(value: float, is_causal: bool = False, **arguments: float) -> list[str]:
        out = subject.attend(check.kernel, *tensors, is_causal=is_causal, **arguments)
        wanted, _ = attention(*tensors, scale=value, causal=is_causal)
        return judge_output(out, wanted, tolerances.bounds(check.kernel, "fp16"))[0]

    attempts = {
        "sm_scale=0.05": partial(right, 0.05, sm_scale=0.05),
        "scale=0.05": partial(right, 0.05, scale=0.05),
        "both 0.05": partial(right, 0.05, scale=0.05, sm_scale=0.05),
        "sm_scale=-0.1": partial(right, -0.1, sm_scale=-0.1),
        "scale=-0.1": partial(right, -0.1, scale=-0.1),
        "sm_scale=0": partial(right, 0.0, sm_scale=0.0),
        "sm_scale=1e-6, causal": partial(right, 1e-6, True, sm_scale=1e-6),
    }
    return verdict(problems_of(attempts))


def smooth_k(subject: Subject, check: Check) -> Result:
    """``smooth_k=False`` reaches the kernel: where K has a mean, the result has more error."""
    inputs = make(Case(**{**vars(CASE), "k_mean": True}), check.seed(subject.seed), subject.device)
    right, _ = attention(*inputs.tensors)
    errors = {
        smooth: _error(subject, check.kernel, inputs.tensors, right, smooth) for smooth in (True, False)
    }
    figures = {"relative_error": errors[True], "relative_error_without": errors[False]}
    problems = (
        []
        if errors[False] > errors[True]
        else [f"no more error without it ({errors[False]:.4f}) than with it ({errors[True]:.4f})"]
    )
    return verdict(problems, figures)


def _error(
    subject: Subject, kernel: Kernel, tensors: tuple[torch.Tensor, ...], right: torch.Tensor, smooth: bool
) -> float:
    out = subject.attend(kernel, *tensors, smooth_k=smooth)
    return float(((out.double() - right.double()).norm() / right.double().norm()).item())
