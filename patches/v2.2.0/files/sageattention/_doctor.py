# SPDX-License-Identifier: Apache-2.0
"""What `python -m sageattention` prints, and how it measures when torch's attention is faster."""

import importlib.util
import itertools
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import sageattention

from . import _rule, _torch, _triton_kernels, core
from ._arguments import Call

_SIZES = ((1, 24, 1024, 128), (1, 24, 4608, 128), (2, 10, 4096, 64))  # batch, heads, tokens, head dim
_RIGHT = 0.06  # relative error of any kernel on normal inputs is below this
# Batch, heads of Q and of K, tokens of Q and of K: what a rule is made from.
_GRID = (
    (2, 12, 12, 256, 256), (2, 12, 12, 512, 512), (2, 12, 12, 1024, 1024), (2, 12, 12, 2048, 2048),
    (1, 24, 24, 4096, 4096), (1, 24, 24, 4608, 4608), (1, 24, 24, 6144, 6144), (1, 24, 24, 8192, 8192),
    (1, 24, 24, 16384, 16384), (8, 16, 16, 512, 512), (8, 16, 16, 1024, 1024), (1, 32, 8, 4096, 4096),
    (1, 24, 24, 4096, 77), (1, 24, 24, 4096, 512), (1, 40, 40, 32768, 512), (1, 24, 24, 16384, 1024),
    (1, 24, 24, 32768, 2048), (1, 24, 24, 8192, 4096), (1, 24, 24, 512, 8192), (1, 24, 24, 64, 4096),
    (8, 24, 24, 1, 4096),
)  # fmt: skip
_SECONDS = 0.02  # that each of the two runs at a time
_MARGIN = 1.03  # what ours must be faster by on the GPU, since it keeps the host longer


def report() -> int:
    """Print what a bug report needs; return 0 if all is well."""
    advice = []
    has_triton = importlib.util.find_spec("triton") is not None
    triton = importlib.import_module("triton").__version__ if has_triton else "missing"
    print(f"SageAttention {sageattention.__version__} in {sageattention.__path__[0]}")
    versions = f"torch {torch.__version__} for CUDA {torch.version.cuda}, Triton {triton}"
    print(f"Python {platform.python_version()}, {versions}, {platform.platform()}")
    if not _triton_kernels.has_triton():
        missing = "Masks and sageattn_varlen need Triton and a C compiler"
        advice.append(f"{missing}: pip install triton; apt install gcc")
    enabled = {80: core.SM80_ENABLED, 89: core.SM89_ENABLED, 90: core.SM90_ENABLED}
    print("Loaded: _fused " + " ".join(f"_qattn_sm{number}" for number in enabled if enabled[number]))
    if not torch.cuda.is_available():
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        print(f"GPU: none ({why}): sageattn() takes torch's attention.")
        return 1
    index = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    print(f"GPU {index} of {torch.cuda.device_count()}: {name}, {major}.{minor}, driver {_driver()}")
    file = _rule.user_file(index)
    rule = "by this build's rule" if _rule.load(index) else "ask --measure"
    rule = f"as measured here ({file})" if file.is_file() else rule
    print(f"SAGEATTENTION_KERNEL={core._FORCED}; when torch's attention is faster: {rule}")
    for batch, heads, tokens, head_dim in _SIZES:
        call = Call(*_inputs(batch, heads, heads, tokens, tokens, head_dim), "HND", False, head_dim**-0.5)
        line = f"{batch} x {heads} x {tokens:,} x {head_dim}: {core.explain(call.q, call.k, call.v)}"
        try:
            plan = core.plan_of(call._replace(return_lse=True))  # ours, if it can be
            if plan.kernel is not None:
                q, k, v = (tensor.double() for tensor in call[:3])
                exact = torch.softmax(q @ k.mT * head_dim**-0.5, -1) @ v
                error = float((core.compute(plan, call).double() - exact).norm() / exact.norm())
                line += f" (ours: error {error:.3f}, {_ratio(plan, call):.2f} times torch's speed)"
                if not error < _RIGHT:
                    advice.append(f"{plan.kernel.function} computes wrong here: please report these lines")
            elif plan.advice:
                advice.append(plan.reason)
        except Exception as problem:
            line += f" FAILS: {type(problem).__name__}: {problem}"
            advice.append("SAGEATTENTION_KERNEL=torch takes torch's attention until this is mended.")
        print(line)
    for line in dict.fromkeys(advice):
        print(f"-> {line}")
    return int(bool(advice))


def _driver() -> str:
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.partition("\n")[0]
    except (OSError, subprocess.SubprocessError) as problem:
        return f"unknown ({type(problem).__name__})"


def measure() -> int:
    """Time our kernels and torch's function, keep the rule that comes out, and print both."""
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: there is nothing to measure.")
        return 1
    index = torch.cuda.current_device()
    name, version = torch.cuda.get_device_name(index), sageattention.__version__
    about = {"gpu": name, "torch": torch.__version__, "version": version}
    print(f"{about}\ntorch's time / ours; batch, heads of Q and K, tokens of Q and K")
    rule = {}
    for kind, head_dim in itertools.product(_rule.KINDS, _rule.HEAD_DIMS):
        measured = ((grid, _measured(kind, head_dim, grid)) for grid in _GRID)
        ratios = {grid: ratio for grid, ratio in measured if ratio is not None}
        if ratios:
            rule[f"{kind} {head_dim}"] = fitted(ratios)
            figures = ", ".join(f"{'x'.join(map(str, grid))} {ratio:.2f}" for grid, ratio in ratios.items())
            print(f"{kind} {head_dim}: {figures}", flush=True)
    file = _rule.keep(index, rule, about)
    major, minor = torch.cuda.get_device_capability(index)
    lines = "".join(f'        "{kind}": {figures},\n' for kind, figures in rule.items())
    print(f'    "sm{major}{minor}": {{\n{lines}    }},')
    print(f"Kept in {file}; delete that file to forget it. Please send these lines in.")
    return 0


def _measured(kind: str, head_dim: int, grid: tuple[int, ...]) -> float | None:
    """Return torch's time over ours; None where ours does not compute, or a mask is too large to be likely."""
    q_tokens, kv_tokens = grid[3:]
    mask = None
    if kind in ("bool", "float"):
        if q_tokens * kv_tokens > 2**26:
            return None
        mask = torch.rand(q_tokens, kv_tokens, device="cuda")
        mask = mask < 0.9 if kind == "bool" else mask.bfloat16()
    call = Call(*_inputs(*grid, head_dim), "HND", kind == "causal", head_dim**-0.5, False, mask)
    plan = core.plan_of(call._replace(return_lse=True))  # ours, if it can be
    return None if plan.kernel is None else _ratio(plan, call)


def _inputs(
    batch: int, heads: int, kv_heads: int, q_tokens: int, kv_tokens: int, head_dim: int
) -> Iterator[Any]:
    shapes = ((heads, q_tokens), (kv_heads, kv_tokens), (kv_heads, kv_tokens))
    return (torch.randn(batch, *shape, head_dim, dtype=torch.bfloat16, device="cuda") for shape in shapes)


def _ratio(plan: Any, call: Call) -> float:
    """Return torch's GPU time over ours: the two in turns, each for some time, since the card gets hot."""
    queues: list[tuple[Any, int, list[float]]] = []
    for compute in (partial(core.compute, plan, call), partial(_torch.attention, call)):
        compute()
        torch.cuda.synchronize()
        began = time.perf_counter()
        compute()
        torch.cuda.synchronize()
        calls = max(3, min(200, math.ceil(_SECONDS / (time.perf_counter() - began))))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                compute()
        queues.append((graph, calls, []))
    for graph, calls, times in queues * 4:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    (_, _, ours), (_, _, others) = queues
    return min(others) / min(ours)


def fitted(ratios: dict[tuple[int, ...], float]) -> list[int]:
    """Return the three figures of a rule with which least is lost to wrong choices; of several the most careful."""
    if max(ratios.values()) <= _MARGIN:
        return [_rule.NEVER, 0, 0]
    steps = (0, *(round(32 * 2 ** (i / 2)) for i in range(23)), _rule.NEVER)
    products = (0, *(2**i for i in range(20, 36, 2)))

    def lost(figures: tuple[int, ...]) -> float:
        total = 0.0
        for (batch, heads, kv_heads, q_tokens, kv_tokens), ratio in ratios.items():
            rows, kv_rows = batch * heads * q_tokens, batch * kv_heads * kv_tokens
            by_torch = rows * kv_tokens < figures[0] * rows + figures[1] * kv_rows + figures[2]
            gain = math.log(ratio / _MARGIN)
            # Not to be slower counts more than to be faster.
            total += max(0.0, gain if by_torch else -4 * gain)
        return total

    candidates = itertools.product(steps, steps, products)
    best = min(candidates, key=lambda three: (round(lost(three), 4), *(-figure for figure in three)))
    return [_rule.NEVER, 0, 0] if _rule.NEVER in best else [*best]
