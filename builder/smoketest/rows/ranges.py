"""Large values: a finite input gives a finite output, and a right one where rounding to int8 allows it."""

from __future__ import annotations

from functools import partial

import torch

from builder.smoketest.attention.cases import Case, RangeCase
from builder.smoketest.attention.compare import attention, bounds, judge_output
from builder.smoketest.attention.inputs import make, poison
from builder.smoketest.attention.subject import Attempts, Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, verdict
from builder.smoketest.rows.accuracy import wrong

LENGTHS = (300, 1000)
FAR = 250.0
CHANNEL, TOKEN = 3, 5
MOST_OF_V = 1.07
"""An output is a mean of V's rows, which fp8 rounds by at most 1/16."""


def finite(subject: Subject, spec: RowSpec) -> Result:
    """Compare a result with attention in float64, each channel of V by its own size."""
    case = spec.parameter
    assert isinstance(case, RangeCase)
    q, k, v, size = tensors(case, spec.seed(subject.seed), subject.device)
    poison(subject.device)
    # With the logsumexp `sageattn` takes our kernel, however short the sequences are.
    chooses = spec.kernel.key == "sageattn"
    out = subject.attend(spec.kernel, q, k, v, **({"return_lse": True} if chooses else {}))
    out = out[0] if chooses else out
    bad = int((~torch.isfinite(out.float())).sum().item())
    if bad:
        return verdict([f"{bad} of {out.numel()} elements are NaN or infinite"], {"not_finite": float(bad)})
    if not case.v:
        not_zero = int((out != 0).sum().item())
        return verdict([f"{not_zero} elements are not zero"] if not_zero else [], limits={"not_zero": "== 0"})
    if not case.compared:
        most = float(out.abs().max().item()) / float(v.abs().max().item())
        problems = [] if most <= MOST_OF_V else [f"the largest output is {most:.3f} times the largest of V"]
        return verdict(problems, {"largest_of_v": most}, {"largest_of_v": f"<= {MOST_OF_V}"})
    right, _ = attention(q, k, v, dtype=torch.float64)
    return verdict(*judge_output(out.double() / size, right / size, bounds(spec.kernel, case.dtype)))


def far_below(subject: Subject, spec: RowSpec) -> Attempts:
    """Keys with products far below zero count, and masked keys and those past the end don't."""
    tensors = make(Case(LENGTHS), spec.seed(subject.seed), subject.device).tensors
    tensors[0].fill_(FAR)
    tensors[1].fill_(-FAR)

    def attempt(causal: bool) -> list[str]:
        exact = {"causal": causal, "dtype": torch.float64}
        return wrong(subject, spec.kernel, tensors, exact=exact, is_causal=causal, smooth_k=False)

    return {"causal": partial(attempt, True), "not causal": partial(attempt, False)}


def tensors(
    case: RangeCase, seed: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Q, K, V, and the size of each channel of V."""
    q, k, v = make(Case(LENGTHS, dtype=case.dtype, groups=2), seed, device).tensors
    dtype, most = q.dtype, torch.finfo(q.dtype).max
    size = torch.ones(v.shape[-1], dtype=torch.float64, device=device)
    size[CHANNEL] = case.v_channel
    size *= case.v or 1.0

    def fitting(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clamp(-most, most).to(dtype)

    k = k.double() * case.k
    k[..., CHANNEL] += case.k_channel
    k[..., TOKEN, :] *= case.k_token
    v = fitting(v.double() * size + case.v_mean) * bool(case.v)
    return fitting(q.double() * case.q), fitting(k), v, size
