"""The check that compiles Triton kernels for each GPU finds a kernel that is too large for one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.check import compatibility
from builder.target.targets import load_targets
from builder.toolchain.torch_env import make_clean_venv
from builder.util.process import run

pytestmark = pytest.mark.e2e
SCRIPT = Path(compatibility.__file__).with_name("triton_limits.py")
# A module of upstream's name, with a launcher of upstream's signature; a stage is one tile of K and one of V.
MODULE = """
import torch
import triton
import triton.language as tl

@triton.jit
def _attn_fwd(Q, K, V, Out, stride, length, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    rows, columns, d = tl.arange(0, M), tl.arange(0, N), tl.arange(0, D)
    q = tl.load(Q + rows[:, None] * stride + d[None, :])
    acc = tl.zeros([M, D], dtype=tl.float32)
    for start in range(0, length, N):
        k = tl.load(K + (start + columns[None, :]) * stride + d[:, None])
        v = tl.load(V + (start + columns[:, None]) * stride + d[None, :])
        acc += tl.dot(tl.dot(q, k).to(tl.float16), v)
    tl.store(Out + rows[:, None] * stride + d[None, :], acc)

def forward(q, k, v, q_scale, k_scale, output_dtype=torch.float16, return_lse=False):
    out = torch.empty_like(v)
    _attn_fwd[(1,)](v, v, v, out, v.stride(2), v.size(2), v.size(3), 64, 64, num_warps=4, num_stages=STAGES)
"""
UNREACHED = "\n@triton.jit\ndef other(X):\n    tl.store(X, 0)\n\ndef launch(x):\n    other[(1,)](x)\n"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the universal wheel's torch, and the Triton that it brings."""
    venv = tmp_path_factory.mktemp("triton") / "venv"
    torch = load_targets()["universal-cu130"].torch
    return make_clean_venv(venv, sys.executable, [f"torch=={torch}"])


def limits(python: Path, folder: Path, code: str) -> tuple[int, dict[str, Any]]:
    module = folder / "sageattention" / "triton" / "attn_qk_int8_per_block_causal.py"
    module.parent.mkdir(parents=True)
    (module.parent / "__init__.py").touch()
    module.write_text(code)
    done = run([python, "-I", SCRIPT, folder, "--gpu", "8.6", "--gpu", "9.0"], check=False)
    return done.status, json.loads(done.output)


def test_a_kernel_that_fits(python: Path, tmp_path: Path) -> None:
    status, report = limits(python, tmp_path, MODULE.replace("STAGES", "2"))
    assert (status, report["problems"]) == (0, [])
    usage = report["worst"]["attn_qk_int8_per_block_causal._attn_fwd on 8.6"]
    assert 0 < usage["shared_bytes"] <= 101_376


def test_a_kernel_that_is_too_large_for_one_gpu_and_one_that_is_never_launched(
    python: Path, tmp_path: Path
) -> None:
    status, report = limits(python, tmp_path, MODULE.replace("STAGES", "5") + UNREACHED)
    assert status == 1
    unreached, *too_large = report["problems"]
    assert unreached == "attn_qk_int8_per_block_causal.other: no call of this script launches it"
    assert too_large
    assert all(" on 8.6, head dim 128," in text and "shared_bytes of 101,376" in text for text in too_large)
