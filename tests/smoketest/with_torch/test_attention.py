"""Inputs, the right answers, and limits."""

from __future__ import annotations

import pytest
import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import COARSE_MEAN, FAMILIES, attention, bounds, judge_output
from builder.smoketest.attention.inputs import GUARD_ELEMENTS, guarded, make, pieces
from builder.smoketest.attention.kernels import ALL

KERNELS = {kernel.key: kernel for kernel in ALL}


@pytest.mark.parametrize("memory", ["packed", "sliced", "transposed"])
@pytest.mark.parametrize("layout", ["HND", "NHD"])
def test_inputs_lie_between_nan_in_the_memory_that_was_asked_for(memory: str, layout: str) -> None:
    case = Case((17, 9), head_dim=64, layout=layout, memory=memory, groups=4, batch=2)
    inputs = make(case, 1, "cpu")
    q, k, v = inputs.heads_first(layout)
    assert q.shape == (2, 16, 17, 64)
    assert k.shape == v.shape == (2, 4, 9, 64)
    for tensor, buffer in zip(inputs.tensors, inputs.buffers, strict=True):
        assert tensor.stride(-1) == 1
        assert tensor.is_contiguous() == (memory == "packed")
        assert bool(torch.isnan(buffer[:GUARD_ELEMENTS]).all())
        assert bool(torch.isnan(buffer[-GUARD_ELEMENTS:]).all())
        assert int(torch.isfinite(buffer).sum()) == tensor.numel() == int(torch.isfinite(tensor).sum())


def test_a_write_into_a_guard_is_seen() -> None:
    inputs = make(Case((17, 17)), 1, "cpu")
    before = inputs.snapshot()
    assert not inputs.changed_since(before)
    inputs.buffers[2][-1] = 0
    assert inputs.changed_since(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_the_poison_is_nan_in_every_type(dtype: torch.dtype) -> None:
    assert bool(torch.isnan(guarded((3, 5), dtype, "cpu")[0].float()).all())


def test_free_small_segments_are_asked_for_in_pieces_of_their_own_pool() -> None:
    assert pieces([2**21, 512, 2**20 + 512]) == [2**20, 2**20, 512, 2**20, 512]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("budget_bytes", [4 * 40, 4 * 40 * 7, 2**29])
def test_the_reference_is_right_in_chunks_of_any_size(causal: bool, budget_bytes: int) -> None:
    q, k, v = torch.randn(2, 6, 40, 16), torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 24)
    right = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=causal, enable_gqa=True
    )
    out, lse = attention(q, k, v, causal=causal, budget_bytes=budget_bytes)
    assert torch.allclose(out.double(), right, atol=1e-5)
    rows = torch.tensor([39, 0, 7])
    some, some_lse = attention(q, k, v, causal=causal, rows=rows, budget_bytes=budget_bytes)
    assert torch.allclose(some, out[:, :, rows], atol=1e-5)
    assert torch.allclose(some_lse, lse[:, :, rows], atol=1e-5)


def test_the_mean_of_v_taken_out_in_bf16_has_a_limit_of_its_own() -> None:
    smooth_v, fp16 = KERNELS["cuda-fp16/fp16/smooth_v"], KERNELS["cuda-fp16/fp32/per_thread"]
    assert bounds(smooth_v, "bf16") == COARSE_MEAN
    assert bounds(smooth_v, "fp16") == bounds(fp16, "bf16") == FAMILIES["fp16"]


def test_nan_breaks_every_limit() -> None:
    right = torch.randn(4, 8)
    wrong = right.clone()
    wrong[0, 0] = float("nan")
    assert judge_output(wrong, right, FAMILIES["fp8"])[0] == ["1 elements are NaN or infinite"]
    assert judge_output(right, right, FAMILIES["fp8"])[0] == []
