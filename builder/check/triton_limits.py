"""Compile every Triton kernel of a wheel for each GPU, without a GPU, and hold it against the GPU's limit.

    python triton_limits.py [FOLDER] [--gpu 8.6]

FOLDER contains the package `sageattention`, unpacked; without it the installed one is tried. It runs by its
path, with torch and the Triton to be tried (3.3 or later), and prints JSON; exit code 1 where a kernel needs
more shared memory than a block may have. (Registers need no limit: the assembler spills them.) The package's
launchers are called with tensors on the CPU, and Triton compiles what they would launch, for each GPU anew. A
kernel that no call of `_calls` reaches is a problem too.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import signal
import sys
import sysconfig
import tempfile
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

# Shared memory that a block may have, in bytes: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability", less the 1 KiB that CUDA keeps for itself.
SHARED_BYTES = {"8.0": 166_912, "8.6": 101_376, "8.9": 101_376, "9.0": 232_448, "12.0": 101_376}

# Module, launcher, variant, arguments and keywords.
Call = tuple[str, str, str, tuple[Any, ...], dict[str, Any]]


def _calls(head_dim: int, tokens: int) -> Iterator[Call]:
    """Yield the calls that the package makes."""
    half, bf16, int8 = torch.float16, torch.bfloat16, torch.int8
    q, k = torch.empty(2, 4, tokens, head_dim, dtype=half), torch.empty(2, 2, tokens, head_dim, dtype=half)
    q_scale, k_scale = torch.empty(2, 4, -(-tokens // 128)), torch.empty(2, 2, -(-tokens // 64))
    quantised = (q.to(int8), k.to(int8), k, q_scale, k_scale)
    for dtype, name in itertools.product((half, bf16, torch.float), ("per_block", "per_thread")):
        yield (f"quant_{name}", f"{name}_int8", f"{dtype}", (q.to(dtype), k.to(dtype)), {})
    mask_types = (torch.bool, half, bf16, torch.float)
    masks = [None, *(torch.empty(1, 1, tokens, tokens, dtype=dtype) for dtype in mask_types)]
    for mask, lse in itertools.product(masks, (False, True) if tokens % 16 == 0 else (False,)):
        for dtype in (half, bf16) if mask is None or mask.dtype.itemsize != 2 else (mask.dtype,):
            options = {"output_dtype": dtype, "return_lse": lse}
            variant = f"{dtype}{', lse' if lse else ''}"
            masked = options | {"attn_mask": None if mask is None else mask.expand(2, 4, tokens, tokens)}
            which = f"{variant}, mask {mask if mask is None else mask.dtype}"
            yield ("attn_qk_int8_per_block", "forward", which, quantised, masked)
            if mask is None:
                yield ("attn_qk_int8_per_block_causal", "forward", variant, quantised, options)
    for dtype, starts_type in itertools.product((half, bf16), (torch.int32, torch.int64)):
        packed_q, packed_k = (x.reshape(-1, x.size(1), head_dim) for x in (q, k))
        ends = torch.tensor([0, tokens, 2 * tokens], dtype=starts_type)
        scales = torch.empty(2 * q_scale.size(2), 4), torch.empty(2 * k_scale.size(2), 2)
        blocks = torch.tensor([0, 1, 2])
        variant = f"{dtype}, {starts_type}"
        for given in (dtype, torch.float):
            packed = (packed_q.to(given), packed_k.to(given), ends, ends, tokens, tokens)
            yield ("quant_per_block_varlen", "per_block_int8", f"{given}, {starts_type}", packed, {})
        tensors = (packed_q.to(int8), packed_k.to(int8), packed_k)
        for name in ("attn_qk_int8_block_varlen", "attn_qk_int8_per_block_causal_varlen"):
            arguments = (*tensors, ends, ends, tokens, *scales, blocks, blocks)
            yield (name, "forward", variant, arguments, {"output_dtype": dtype})


# What each process of the pool calls first: prctl(2), PR_SET_PDEATHSIG. They would wait for work for ever.
_END_WITH_PARENT = ctypes.CDLL(None).prctl, (1, signal.SIGTERM)
# The package's modules by name, and its calls: there before the processes fork, so that nothing is pickled.
_modules: dict[str, types.ModuleType] = {}
_package_calls: list[Call] = []


def _load(folder: Path) -> None:
    # The package's own __init__ loads extensions, for which torch has to be the one that they are for.
    package = types.ModuleType("sageattention")
    package.__path__ = [str(folder / "sageattention")]
    sys.modules["sageattention"] = package
    for found in pkgutil.iter_modules([str(folder / "sageattention" / "triton")]):
        _modules[found.name] = importlib.import_module(f"sageattention.triton.{found.name}")
    for head_dim, tokens in itertools.product((64, 128), (2048, 2047)):
        for module, launcher, call, args, kwargs in _calls(head_dim, tokens):
            if module in _modules:
                variant = f"head dim {head_dim}, {tokens} tokens, {call.replace('torch.', '')}"
                _package_calls.append((module, launcher, variant, args, kwargs))


def _compile(gpu: str, index: int) -> tuple[list[tuple[str, str, int]], str]:
    """Make a call as on a GPU of this compute capability; return what it would launch, and its error.

    That is each kernel, Triton's hash of the variant, and its shared memory in bytes.
    """
    module, launcher, _, args, kwargs = _package_calls[index]
    major, minor = map(int, gpu.split("."))
    target = GPUTarget("cuda", 10 * major + minor, 32)
    driver = mock.Mock()
    driver.get_current_device.return_value = target.arch  # Triton keeps what it compiled by device
    driver.get_current_target.return_value = target
    triton.runtime.driver.set_active(driver)
    properties = mock.Mock(major=major, minor=minor, shared_memory_per_block_optin=SHARED_BYTES[gpu])
    launched: list[tuple[str, str, int]] = []
    run = JITFunction.run

    def compile_only(kernel: JITFunction[Any], *args: Any, **kwargs: Any) -> None:
        compiled = run(kernel, *args, **{**kwargs, "warmup": True})
        launched.append((_name(kernel), compiled.hash, compiled.metadata.shared))

    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch("torch.cuda.get_device_capability", return_value=(major, minor)),
        mock.patch("torch.cuda.get_device_properties", return_value=properties),
    ):
        try:
            getattr(_modules[module], launcher)(*args, **kwargs)
        except Exception as error:
            return launched, f"{type(error).__name__}: {error}"
    return launched, ""


def _name(kernel: JITFunction[Any]) -> str:
    return f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.__name__}"


def _unreached(reached: set[str]) -> Iterator[str]:
    """Yield the kernels that a function of their module names, and that no call has reached."""
    for module in _modules.values():
        functions = [value for value in vars(module).values() if inspect.isfunction(value)]
        named = {word for each in functions for word in inspect.unwrap(each).__code__.co_names}
        for name, kernel in vars(module).items():
            if isinstance(kernel, JITFunction) and name in named and _name(kernel) not in reached:
                yield f"{_name(kernel)}: no call of this script launches it"


def main() -> int:
    """Print the Triton, the worst use of each kernel for each GPU, and the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=sysconfig.get_path("purelib"))
    parser.add_argument("--gpu", action="append", choices=SHARED_BYTES, help="only these; repeatable")
    options = parser.parse_args()
    _load(Path(options.folder).resolve())
    tasks = list(itertools.product(options.gpu or SHARED_BYTES, range(len(_package_calls))))
    problems: list[str] = []
    variants: dict[str, dict[str, int]] = {}  # kernel and GPU -> hash -> bytes of shared memory
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": folder}),
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork"), *_END_WITH_PARENT) as pool,
    ):
        results = list(pool.map(_compile, *zip(*tasks, strict=True)))
    for (gpu, index), (launched, error) in zip(tasks, results, strict=True):
        module, launcher, call, _, _ = _package_calls[index]
        if error:
            problems.append(f"{module}.{launcher} on {gpu}, {call}: {error}")
        for kernel, digest, shared_bytes in launched:
            known = variants.setdefault(f"{kernel} on {gpu}", {})
            if shared_bytes > SHARED_BYTES[gpu] and digest not in known:
                needs = f"{shared_bytes:,} shared_bytes of {SHARED_BYTES[gpu]:,}"
                problems.append(f"{kernel} on {gpu}, {call}: needs {needs}")
            known[digest] = shared_bytes
    reached = {name.partition(" on ")[0] for name in variants}
    report = {
        "triton": triton.__version__,
        "compiled": sum(map(len, variants.values())),
        "worst": {
            name: {"shared_bytes": max(known.values()), "variants": len(known)}
            for name, known in variants.items()
        },
        "problems": [*_unreached(reached), *problems],
    }
    print(json.dumps(report, indent=1))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
