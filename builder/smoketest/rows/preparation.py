"""The operator that prepares Q, K and V, compared with the same arithmetic in torch."""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

import torch

from builder.smoketest.attention.cases import PREPARATIONS, PREPARED_SHAPES, Preparation
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.conduct.streams import same_bits

LOG2_E = 1.4426950408889634
PER_THREAD = 3
FLOAT16, FLOAT8 = 1, 2
LAYOUTS = ("HND", "NHD", "odd", "slice")
FP8_ROUNDING = 0.0645
"""e4m3 has three bits after the first: at most 1/16, and a little for the division."""
LARGE_CHANNEL, LARGE_TOKEN = 3, 0
LARGEST_LOGIT = 2.0**18
"""Past this, keys count as less."""


def compare(subject: Subject, check: Check) -> Result:
    """Undo what the operator did with several shapes, types and layouts; and call it twice."""
    fused: Any = subject.compiled_module("_fused")
    operator = getattr(fused, "prepare", None)
    if operator is None:
        return not_applicable("the wheel has no such operator")
    asked = PREPARATIONS[check.case]
    torch.manual_seed(check.seed(subject.seed))
    problems = []
    variants = cycle([(dtype, layout) for layout in LAYOUTS for dtype in (torch.float16, torch.bfloat16)])
    for shape in PREPARED_SHAPES:
        for smooth_k in (1, 0, 1):
            given = Given(shape, *next(variants), smooth_k)
            problems += [f"{given}: {one}" for one in _one(subject, operator, asked, given)]
    return verdict(problems[:5])


class Given(NamedTuple):
    """One call's inputs: sizes as `PREPARED_SHAPES` has them."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    smooth_k: int


def _one(subject: Subject, operator: Any, asked: Preparation, given: Given) -> list[str]:
    batch, q_heads, kv_heads, q_tokens, kv_tokens, dim = given.shape
    smooth_k = given.smooth_k

    def normal(heads: int, tokens: int) -> torch.Tensor:
        return laid_out(given.layout, (batch, heads, tokens, dim), given.dtype, subject.device)

    # Changed in place, which keeps the layout.
    q, k, v = normal(q_heads, q_tokens), normal(kv_heads, kv_tokens), normal(kv_heads, kv_tokens)
    k += 1
    k[:, :, LARGE_TOKEN] *= 1000
    v.mul_(3).add_(2)
    if asked.v_limit == 512.0:
        v[..., LARGE_CHANNEL] *= 1000
    factor = 0.3 / LOG2_E if asked.fold_scale else -0.5
    rest = (asked.v_mode, asked.v_limit, smooth_k, asked.smooth_v, factor, asked.fold_scale, 1)
    arguments = (asked.granularity, asked.q_block, asked.q_rows, asked.k_rows, *rest)
    poison(subject.device)
    made = operator(q, k, v, *arguments)
    poison(subject.device)
    again = operator(q, k, v, *arguments)
    if left := subject.left_behind():
        return [f"left a CUDA error behind: {left}"]
    problems = [] if all(map(same_bits, made, again)) else ["two calls differ"]
    wide = 64 if dim <= 64 else 128
    q32, k32, v32 = (torch.nn.functional.pad(x.float(), (0, wide - dim)) for x in (q, k, v))
    mean = k32.mean(dim=2, keepdim=True)
    q8, q_scale, k8, k_scale, v_made, v_scale, v_mean, correction = made
    signed = q32 * (factor * LOG2_E if asked.fold_scale else -1.0)
    per_thread = asked.granularity == PER_THREAD
    groups = rows_of_q(q_tokens, asked.q_rows, per_thread), rows_of_k(kv_tokens, asked.k_rows, per_thread)
    per_logit = 127**2 * wide * (1.0 if asked.fold_scale else abs(factor) * LOG2_E)
    of_kv = q_scale.reshape(batch, kv_heads, -1).amax(dim=-1, keepdim=True)
    most = LARGEST_LOGIT / per_logit / of_kv
    problems += [f"Q: {one}" for one in _int8(signed, q8, q_scale, groups[0])]
    problems += [f"K: {one}" for one in _int8(k32 - mean if smooth_k else k32, k8, k_scale, groups[1], most)]
    if smooth_k:
        shared = mean.repeat_interleave(q_heads // kv_heads, dim=1)
        right = (q32 @ shared.transpose(2, 3)).squeeze(-1) * factor
        problems += _close("the logsumexp's correction", correction, right, 1e-2, 2e-3)
    elif correction.numel():
        problems.append("a correction that is not needed")
    undo = {FLOAT16: _float16, FLOAT8: _float8}.get(asked.v_mode)
    return problems + (undo(v32, v_made, v_scale, v_mean, asked) if undo else [])


def laid_out(layout: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return random numbers: contiguous, heads inside, rows from an odd element, or part of a projection."""
    batch, heads, tokens, dim = shape
    if layout == "NHD":
        return torch.randn(batch, tokens, heads, dim, device=device).to(dtype).transpose(1, 2)
    if layout == "odd":
        return torch.randn(batch, heads, tokens, dim + 3, device=device).to(dtype)[..., 1 : dim + 1]
    if layout == "slice":
        whole = torch.randn(batch, tokens, 3, heads, dim, device=device).to(dtype)
        return whole[:, :, 1].transpose(1, 2)
    return torch.randn(batch, heads, tokens, dim, device=device).to(dtype)


def rows_of_q(tokens: int, rows: int, per_thread: bool) -> torch.Tensor:
    """Return which scale a row of Q has: one for `rows` rows, or one for each of eight threads of them."""
    index = torch.arange(tokens)
    return index // rows * 8 + index % 8 if per_thread else index // rows


def rows_of_k(tokens: int, rows: int, per_thread: bool) -> torch.Tensor:
    """Return which scale a row of K has: one for `rows` rows, or one for each of four threads of them."""
    index = torch.arange(tokens)
    return index // rows * 4 + index % 8 // 2 if per_thread else index // rows


def _int8(
    right: torch.Tensor,
    int8: torch.Tensor,
    scale: torch.Tensor,
    rows: torch.Tensor,
    most: torch.Tensor | float = float("inf"),
) -> list[str]:
    """Compare int8 and its scales, which are at most `most`."""
    group = rows.to(right.device).expand(right.shape[:3])
    largest = torch.zeros(scale.shape, device=right.device)
    largest = largest.scatter_reduce(2, group, right.abs().amax(dim=-1), "amax")
    used = largest > 0
    problems = _close("scales", scale[used], torch.clamp(largest / 127, max=most)[used], 1e-3, 1e-7)
    exact = right / (largest / 127).clamp(min=1e-30).gather(2, group)[..., None]
    error = float((int8.float() - exact).abs().max().item())
    return problems + ([] if error < 0.6 else [f"int8 off by {error:.2f}"])


def _float16(
    right: torch.Tensor, v: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor, asked: Preparation
) -> list[str]:
    """Undo float16: a power of two for each channel, and the mean before it."""
    back = v.float() * scale[:, :, None]
    if asked.smooth_v:
        back = back + mean.float()[:, :, None] * scale[:, :, None]
    problems = _close("V", back, right, 2e-3, 5.0 if asked.v_limit == 512.0 else 2e-2)
    if not bool((torch.frexp(scale)[0] == 0.5).all()):
        problems.append("V's scale is not a power of two")
    if not float(v.float().abs().max().item()) <= asked.v_limit * 1.001:
        problems.append("V passes its limit")
    return problems


def _float8(
    right: torch.Tensor, v: torch.Tensor, scale: torch.Tensor, mean: torch.Tensor, asked: Preparation
) -> list[str]:
    """Undo float8: transposed, padded, and its tokens in the order in which the kernels read them."""
    tokens, padded = right.shape[2], v.shape[-1]
    if padded != -(-tokens // asked.k_rows) * asked.k_rows:
        return [f"V has {padded} tokens"]
    middle = right.mean(dim=2, keepdim=True) if asked.smooth_v else torch.zeros_like(right[:, :, :1])
    place = torch.arange(padded, device=v.device)
    inside = place % 16
    order = place // 16 * 16 + inside // 8 * 2 + inside // 2 % 4 * 4 + inside % 2
    ordered = v.view(torch.uint8)[..., order].view(torch.float8_e4m3fn).float()
    exact = (right - middle).transpose(2, 3)
    largest = exact.abs().amax(dim=-1)
    problems = _close("V's scales", scale, largest / asked.v_limit, 1e-2, 1e-6)
    off = (ordered[..., :tokens] * scale[..., None] - exact).abs() - exact.abs() * FP8_ROUNDING
    if not bool((off <= largest[..., None] * 2e-3 + 1e-6).all()):
        problems.append(f"V off by {float(off.max().item()):.3g} beyond its rounding")
    if bool((ordered[..., tokens:] != 0).any()):
        problems.append("V's padding is not zero")
    return problems + (_close("V's mean", mean, middle.squeeze(2), 1e-3, 1e-4) if asked.smooth_v else [])


def _close(what: str, got: torch.Tensor, right: torch.Tensor, relative: float, absolute: float) -> list[str]:
    if got.shape == right.shape and torch.allclose(got.float(), right.float(), rtol=relative, atol=absolute):
        return []
    shapes = "" if got.shape == right.shape else f" {tuple(got.shape)} for {tuple(right.shape)}"
    largest = float((got.float() - right.float()).abs().max().item()) if not shapes and got.numel() else 0.0
    return [f"{what}{shapes} off by {largest:.3g}"]
