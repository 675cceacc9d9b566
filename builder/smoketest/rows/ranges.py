"""Large values: a finite input gives a finite output, and a right one where rounding to int8 allows it."""

from __future__ import annotations

from functools import partial

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.cases import Case, RangeCase
from builder.smoketest.attention.inputs import make, poison
from builder.smoketest.attention.reference import attention
from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, verdict
from builder.smoketest.rows.accuracy import judge_output

LENGTHS = (300, 1000)
FAR = 250.0
CHANNEL, TOKEN = 3, 5
MOST_OF_V = 1.07
"""An output is a mean of V's rows, which fp8 rounds by at most 1/16."""


def finite(subject: Subject, check: Check) -> Result:
    """Compare a result with attention in float64, each channel of V by its own size."""
    case = check.asked
    assert isinstance(case, RangeCase)
    q, k, v, size = tensors(case, check.seed(subject.seed), subject.device)
    poison(subject.device)
    out = subject.attend(check.kernel, q, k, v)
    bad = int((~torch.isfinite(out.float())).sum().item())
    if bad:
        return verdict([f"{bad} of {out.numel()} elements are NaN or infinite"], {"not_finite": float(bad)})
    if not case.v:
        wrong = int((out != 0).sum().item())
        return verdict([f"{wrong} elements are not zero"] if wrong else [], limits={"not_zero": "== 0"})
    if not case.compared:
        most = float(out.abs().max().item()) / float(v.abs().max().item())
        problems = [] if most <= MOST_OF_V else [f"the largest output is {most:.3f} times the largest of V"]
        return verdict(problems, {"largest_of_v": most}, {"largest_of_v": f"<= {MOST_OF_V}"})
    right, _ = attention(q, k, v, dtype=torch.float64)
    bounds = tolerances.bounds(check.kernel, case.dtype)
    return verdict(*judge_output(out.double() / size, right / size, bounds))


def far_below(subject: Subject, check: Check) -> Result:
    """Keys with products far below zero count, and masked keys and those past the end don't."""
    q, k, v = make(Case(LENGTHS), check.seed(subject.seed), subject.device).tensors
    q.fill_(FAR)
    k.fill_(-FAR)

    def problems(causal: bool) -> list[str]:
        out = subject.attend(check.kernel, q, k, v, is_causal=causal, smooth_k=False)
        right, _ = attention(q, k, v, causal=causal, dtype=torch.float64)
        return judge_output(out, right, tolerances.bounds(check.kernel, "fp16"))[0]

    attempts = {"causal": partial(problems, True), "not causal": partial(problems, False)}
    return verdict(problems_of(attempts))


def tensors(
    case: RangeCase, seed: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Q, K, V, and the size of each channel of V."""
    inputs = make(Case(LENGTHS, dtype=case.dtype, groups=2), seed, device)
    most = torch.finfo(inputs.q.dtype).max
    size = torch.ones(inputs.v.shape[-1], dtype=torch.float64, device=device)
    size[CHANNEL] = case.v_channel
    size *= case.v or 1.0

    def fitting(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clamp(-most, most).to(inputs.q.dtype)

    k = inputs.k.double() * case.k
    k[..., CHANNEL] += case.k_channel
    k[..., TOKEN, :] *= case.k_token
    v = fitting(inputs.v.double() * size + case.v_mean) * bool(case.v)
    return fitting(inputs.q.double() * case.q), fitting(k), v, size
