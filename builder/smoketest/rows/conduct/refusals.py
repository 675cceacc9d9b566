"""Launches that no grid can hold raise an exception."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention import tolerances
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.kernels import MODULE_FUNCTIONS
from builder.smoketest.attention.subject import HiddenLaunchError, Subject, one_line
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.accuracy import judge_output
from builder.smoketest.rows.conduct.modules import PER_WARP
from builder.smoketest.rows.conduct.streams import eager

MORE_THAN_A_GRID = 65_536
"""One more than a grid's y and z dimensions may have (CUDA C++ Programming Guide, compute capabilities)."""


def launch_error(subject: Subject, check: Check) -> Result:
    """A batch that no grid can hold gives the right result or an exception."""
    kernel, seed = check.kernel, check.seed(subject.seed)
    generator = torch.Generator(device=subject.device).manual_seed(seed)
    shape = (MORE_THAN_A_GRID, 1, 1, 64)
    q, k, v = (
        torch.randn(shape, generator=generator, device=subject.device).to(torch.float16) for _ in range(3)
    )
    poison(subject.device)
    raised = ""
    out = None
    try:
        out = subject.call_checked(kernel, q, k, v)
    except torch.cuda.OutOfMemoryError:
        return not_applicable("too little free memory on the GPU")
    except HiddenLaunchError as error:
        return verdict([f"the call returned; the next operation met its error: {error}"])
    except Exception as error:
        raised = one_line(error)
    problems = []
    if out is not None:
        wrong = judge_output(out, v.float(), tolerances.bounds(kernel, "fp16"))[0]
        problems += [f"no exception, and {problem}" for problem in wrong]
    if subject.left_behind():
        problems.append(f"the exception ({raised}) left a CUDA error behind")
    problems += eager(subject, kernel, seed).problems
    return verdict(problems)


def module_launches(subject: Subject, check: Check) -> Result:
    """Call every function of a module with a batch that no grid can hold: the right result or an exception.

    All inputs are ones, so the right result is known: V in attention, 127 in int8, the highest value in fp8.
    """
    module = check.kernel.module
    loaded = subject.compiled_module(module)
    if loaded is None:
        return not_applicable("the wheel has no such module")
    problems = []
    for name in MODULE_FUNCTIONS[module]:
        poison(subject.device)
        call, out, right = _huge(loaded, module, name, subject.device)
        try:
            call()
        except torch.cuda.OutOfMemoryError:
            return not_applicable("too little free memory on the GPU")
        except Exception as error:
            left = subject.left_behind()
            problems += (
                [f"{name}: raised ({one_line(error)}), and left a CUDA error behind: {left}"] if left else []
            )
            continue
        left = subject.left_behind()
        if left:
            problems.append(f"{name}: returned; the next operation met its error: {left}")
        elif not bool((out.float() == right).all().item()):
            problems.append(f"{name}: returned without an exception, and the result is wrong")
    return verdict(problems, {"functions": float(len(MODULE_FUNCTIONS[module]))})


def _huge(loaded: Any, module: str, name: str, device: str) -> tuple[Callable[[], Any], torch.Tensor, float]:
    """Return a call with too large a batch, its output, and the value that should fill the output."""
    batch, dim = MORE_THAN_A_GRID, 64
    function = getattr(loaded, name)

    def filled(shape: tuple[int, ...], dtype: torch.dtype, value: float = 1.0) -> torch.Tensor:
        return torch.full(shape, value, device=device).to(dtype)

    small = (batch, 1, 1, dim)
    scale, per_channel = filled((batch, 1, 1), torch.float32), filled((batch, 1, dim), torch.float32)
    if module == "_fused":
        x, mean = filled(small, torch.float16), filled((batch, 1, dim), torch.float16, 0.0)
        int8, half, means = filled(small, torch.int8, 77), filled(small, torch.float16, 3), per_channel * 3
        warps = filled((batch, 1, 4), torch.float32)
        turned = filled((batch, 1, dim, 64), torch.float16)
        fp8 = filled((batch, 1, dim, 64), torch.float8_e4m3fn, 3)
        if name == "transpose_pad_permute_cuda":
            wide, target = filled((batch, 1, 64, dim), torch.float16), torch.full_like(turned, 3)
            return partial(function, wide, target, 1), target, 1.0
        calls: dict[str, tuple[tuple[Any, ...], torch.Tensor, float]] = {
            "quant_per_block_int8_cuda": ((x, int8, scale, 64, 1), int8, 127),
            "quant_per_block_int8_fuse_sub_mean_cuda": ((x, mean, int8, scale, 64, 1), int8, 127),
            "quant_per_warp_int8_cuda": ((x, int8, warps, 128, 32, 1), int8, 127),
            "sub_mean_cuda": ((x, mean, half, 1), half, 1),
            "scale_fuse_quant_cuda": ((turned, fp8, per_channel, 64, 448.0, 1), fp8, 448),
            "mean_scale_fuse_quant_cuda": ((turned, fp8, means, per_channel, 64, 448.0, 1), means, 1),
        }
        arguments, out, right = calls[name]
        return partial(function, *arguments), out, right
    tiles = (64, 16, 128) if module == "_qattn_sm90" else (128, 32, 64)
    q8, k8 = filled(small, torch.int8, 0), filled(small, torch.int8, 0)
    q_scale = filled((batch, 1, tiles[0] // tiles[1]), torch.float32)
    out = filled(small, torch.float16, float("nan"))
    fp16 = module == "_qattn_sm80"
    v = filled(small, torch.float16) if fp16 else filled((batch, 1, dim, tiles[2]), torch.float8_e4m3fn)
    more = [per_channel] if "v_scale" in name else []
    if "v_mean" in name:
        more.append(filled((batch, 1, dim), torch.float16 if fp16 else torch.float32, 0.0))
    return partial(function, q8, k8, v, out, q_scale, scale, *more, 1, 0, PER_WARP, 0.125, 0), out, 1.0
