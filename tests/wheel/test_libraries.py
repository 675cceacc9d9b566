"""Who provides a library in the process."""

from __future__ import annotations

import pytest

from builder.wheel.libraries import CUDA_RUNTIME, DRIVER, PYTHON, SYSTEM, TORCH, TORCH_CUDA, owner_of
from builder.wheel.manylinux import load_policy

POLICY = load_policy("manylinux_2_34_x86_64")


@pytest.mark.parametrize(
    ("soname", "owner"),
    [
        ("libc.so.6", SYSTEM),
        ("libstdc++.so.6", SYSTEM),
        ("ld-linux-x86-64.so.2", SYSTEM),
        ("libtorch.so", TORCH),
        ("libtorch_cuda_linalg.so", TORCH),
        ("libc10_cuda.so", TORCH),
        ("libcuda.so.1", DRIVER),
        ("libnvidia-ml.so.1", DRIVER),
        ("libcudart.so.13", CUDA_RUNTIME),
        ("libcublasLt.so.12", TORCH_CUDA),
        ("libnvrtc.so.13", TORCH_CUDA),
        ("libpython3.12.so.1.0", PYTHON),
        ("libgomp.so.1", None),
        ("libtbb.so.12", None),
    ],
)
def test_who_provides_a_library(soname: str, owner: object) -> None:
    assert owner_of(soname, POLICY.libraries) is owner
