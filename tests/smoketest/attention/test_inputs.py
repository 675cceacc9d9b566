"""Inputs lie between NaN, and the same seed gives the same."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import GUARD_ELEMENTS, guarded, make, pieces


@pytest.mark.parametrize("memory", ["packed", "sliced", "transposed"])
@pytest.mark.parametrize("layout", ["HND", "NHD"])
def test_inputs_lie_between_nan_in_the_memory_that_was_asked_for(memory: str, layout: str) -> None:
    case = Case((17, 9), head_dim=64, layout=layout, memory=memory, groups=4, batch=2)
    inputs = make(case, 1, "cpu")
    q, k, v = inputs.heads_first(layout)
    assert q.shape == (2, 16, 17, 64)
    assert k.shape == v.shape == (2, 4, 9, 64)
    for tensor, buffer in zip((inputs.q, inputs.k, inputs.v), inputs.buffers, strict=True):
        assert tensor.stride(-1) == 1
        assert tensor.is_contiguous() == (memory == "packed")
        assert bool(torch.isfinite(tensor).all())
        assert bool(torch.isnan(buffer[:GUARD_ELEMENTS]).all())
        assert bool(torch.isnan(buffer[-GUARD_ELEMENTS:]).all())
        assert int(torch.isfinite(buffer).sum()) == tensor.numel()


def test_the_same_seed_gives_the_same_inputs() -> None:
    case = Case((17, 17))
    assert torch.equal(make(case, 5, "cpu").k, make(case, 5, "cpu").k)
    assert not torch.equal(make(case, 5, "cpu").k, make(case, 6, "cpu").k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_the_poison_is_nan_in_every_type(dtype: torch.dtype) -> None:
    tensor, _ = guarded((3, 5), dtype, "cpu")
    assert bool(torch.isnan(tensor.float()).all())


def test_a_write_into_a_guard_is_seen() -> None:
    inputs = make(Case((17, 17)), 1, "cpu")
    before = inputs.snapshot()
    assert not inputs.changed_since(before)
    inputs.buffers[2][-1] = 0
    assert inputs.changed_since(before)


def test_free_small_segments_are_asked_for_in_pieces_of_their_own_pool() -> None:
    assert pieces([2**21, 512, 2**20 + 512]) == [2**20, 2**20, 512, 2**20, 512]
