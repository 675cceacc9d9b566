"""An operator that prepares Q, K and V wrongly is seen."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.cases import PREPARATIONS
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check, module_kernel
from builder.smoketest.report.outcome import Status
from builder.smoketest.rows.preparation import compare, rows_of_k, rows_of_q


def quantised(x: torch.Tensor, rows: torch.Tensor, scales: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.zeros(*x.shape[:2], scales)
    scale.scatter_reduce_(2, rows.expand(x.shape[:3]), x.abs().amax(dim=-1), "amax")
    scale /= 127
    return (x / scale.gather(2, rows.expand(x.shape[:3]))[..., None]).round().to(torch.int8), scale


def operator(fault: str) -> Any:
    """The operator on the CPU, straight from its description."""
    calls = []

    def prepare(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        granularity: int,
        q_block: int,
        q_rows: int,
        k_rows: int,
        v_mode: int,
        v_limit: float,
        smooth_k: int,
        smooth_v: int,
        sm_scale: float,
        fold_scale: int,
        correct: int,
    ) -> tuple[torch.Tensor, ...]:
        dtype, wide = v.dtype, 64 if q.shape[-1] <= 64 else 128
        q, k, v = (torch.nn.functional.pad(x.float(), (0, wide - x.shape[-1])) for x in (q, k, v))
        mean = k.mean(dim=2, keepdim=True) * smooth_k
        per_thread, tokens = granularity == 3, v.shape[2]
        q_scales = -(-q.shape[2] // q_block) * (q_block // q_rows) * (8 if per_thread else 1)
        k_scales = -(-tokens // k_rows) * (4 if per_thread else 1)
        empty = torch.empty(0)
        shared = mean.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        correction = (q @ shared.transpose(2, 3)).squeeze(-1) * sm_scale if smooth_k and correct else empty
        signed = q * (sm_scale * 1.4426950408889634 if fold_scale else -1)
        if fault == "sign":
            signed = -signed
        q_rows_ = rows_of_q(q.shape[2], q_rows, per_thread)
        k_rows_ = rows_of_k(tokens, k_rows, per_thread and fault != "granularity")
        made = [*quantised(signed, q_rows_, q_scales), *quantised(k - mean, k_rows_, k_scales)]
        if fault != "limit":
            of_logit = 127**2 * wide * (1.0 if fold_scale else abs(sm_scale) * 1.4426950408889634)
            q_largest = made[1].reshape(*k.shape[:2], -1).amax(dim=-1, keepdim=True)
            made[3] = made[3].minimum(2.0**18 / of_logit / q_largest)
        v_mean = v.mean(dim=2, keepdim=True) * smooth_v
        if v_mode == 1:
            v_mean = v_mean.to(dtype).float()
            over = (v - v_mean).abs().amax(dim=2) / v_limit
            scale = torch.exp2(torch.log2(over).ceil().clamp(min=0))
            v = ((v - v_mean) / scale[:, :, None]).half()
            made += [v, scale, (v_mean.squeeze(2) / scale).to(dtype) if smooth_v else empty]
        elif v_mode == 2:
            turned = (v - v_mean).transpose(2, 3)
            scale = turned.abs().amax(dim=-1) / v_limit
            fp8 = (turned / scale.clamp(min=1e-30)[..., None]).to(torch.float8_e4m3fn)
            padded = -(-tokens // k_rows) * k_rows
            filled = torch.nn.functional.pad(fp8.view(torch.uint8), (0, padded - tokens))
            order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
            if fault == "order":
                order = sorted(order)
            index = torch.arange(padded).view(-1, 16)[:, order].reshape(-1)
            made += [filled[..., index].view(torch.float8_e4m3fn), scale]
            made += [v_mean.squeeze(2) if smooth_v else empty]
        else:
            made += [empty] * 3
        calls.append(1)
        if fault == "unsteady" and len(calls) % 2:
            made[0] = made[0].clone()
            made[0][0, 0, 0, 0] ^= 1
        return (*made, correction)

    return prepare


def check(name: str) -> Check:
    return Check("preparation", module_kernel("_fused"), name, "preparation.compare")


@pytest.fixture
def _made(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    fault = getattr(request, "param", "")
    module = SimpleNamespace(prepare=operator(fault)) if fault != "none" else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(_fused=module))
    monkeypatch.setitem(sys.modules, "sageattention._fused", module)


@pytest.mark.usefixtures("_made")
@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_right_operator_passes(standin: Subject, name: str) -> None:
    assert compare(standin, check(name)).reason == ""


@pytest.mark.parametrize(
    ("_made", "said"),
    [
        ("sign", "Q: int8 off by"),
        ("granularity", "K: scales off by"),
        ("limit", "K: scales off by"),
        ("order", "beyond its rounding"),
        ("unsteady", "two calls differ"),
    ],
    indirect=["_made"],
)
@pytest.mark.usefixtures("_made")
def test_a_wrong_one_fails(standin: Subject, said: str) -> None:
    assert said in compare(standin, check("per thread, fp8 V, for 9.0")).reason


@pytest.mark.parametrize("_made", ["none"], indirect=True)
@pytest.mark.usefixtures("_made")
def test_a_wheel_without_it_is_not_applicable(standin: Subject) -> None:
    assert compare(standin, check("Q and K alone")).status is Status.NOT_APPLICABLE
