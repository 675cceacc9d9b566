"""What a result may differ by."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.reference import difference

KERNELS = {kernel.key: kernel for kernel in ALL}


def test_the_mean_of_v_taken_out_in_bf16_has_a_limit_of_its_own() -> None:
    smooth_v, fp16 = KERNELS["cuda-fp16/fp16/smooth_v"], KERNELS["cuda-fp16/fp32/per_thread"]
    assert tolerances.bounds(smooth_v, "bf16") == tolerances.COARSE_MEAN
    assert tolerances.bounds(smooth_v, "fp16") == tolerances.FAMILIES["fp16"]
    assert tolerances.bounds(fp16, "bf16") == tolerances.FAMILIES["fp16"]


def test_nan_breaks_every_limit() -> None:
    right = torch.randn(4, 8)
    wrong = right.clone()
    wrong[0, 0] = float("nan")
    assert tolerances.FAMILIES["fp8"].broken(difference(wrong, right)) == ["1 elements are NaN or infinite"]
    assert tolerances.FAMILIES["fp8"].broken(difference(right, right)) == []
