"""The right answer is right, in chunks of any size."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.reference import attention


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("budget_bytes", [4 * 40, 4 * 40 * 7, 2**29])
def test_the_reference_is_right_in_chunks_of_any_size(causal: bool, budget_bytes: int) -> None:
    q, k, v = torch.randn(2, 6, 40, 16), torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 16)
    out, lse = attention(q, k, v, causal=causal, budget_bytes=budget_bytes)
    right, right_lse = plain_attention(q, k, v, causal)
    assert torch.allclose(out.double(), right, atol=1e-5)
    assert torch.allclose(lse.double(), right_lse, atol=1e-5)


def test_the_reference_computes_the_rows_that_are_asked_for() -> None:
    q, k, v = torch.randn(1, 4, 50, 16), torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    rows = torch.tensor([49, 0, 7])
    out, lse = attention(q, k, v, rows=rows, budget_bytes=4 * 2 * 30 * 2)
    right, right_lse = plain_attention(q, k, v)
    assert torch.allclose(out.double(), right[:, :, rows], atol=1e-5)
    assert torch.allclose(lse.double(), right_lse[:, :, rows], atol=1e-5)
