"""Compile every Triton kernel of a wheel for each GPU, without a GPU, and hold it against the GPU's limits.

    python triton_limits.py [FOLDER] [--gpu 8.6]

FOLDER contains the package `sageattention`, unpacked; without it the installed one is tried. It runs by its
path, with torch and the Triton to be tried (3.3 or later), and prints JSON; exit code 1 where a kernel breaks
a limit. The package's launchers are called with tensors on the CPU, and what they would launch is compiled
as Triton specialises it, for each GPU anew. A kernel that no call of `_calls` reaches is a problem too.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import re
import subprocess
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
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

# Shared memory that a block may have, in bytes: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability", less the 1 KiB that CUDA keeps for itself.
SHARED_BYTES = {"8.0": 166_912, "8.6": 101_376, "8.9": 101_376, "9.0": 232_448, "12.0": 101_376}
REGISTERS_OF_A_BLOCK = 65_536  # and 255 a thread at most, which the assembler keeps by spilling

_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "bool": "i1", "int8": "i8"}
_TYPES |= {"int32": "i32", "int64": "i64"}

Jobs = dict[tuple[Any, ...], tuple[JITFunction[Any], dict[str, Any]]]


def _calls(head_dim: int, tokens: int) -> Iterator[tuple[str, str, str, tuple[Any, ...], dict[str, Any]]]:
    """Yield (module, launcher, variant, arguments, keywords) of the calls that the package makes."""
    half, bf16, int8 = torch.float16, torch.bfloat16, torch.int8
    q, k = torch.empty(2, 4, tokens, head_dim, dtype=half), torch.empty(2, 2, tokens, head_dim, dtype=half)
    q_scale, k_scale = torch.empty(2, 4, -(-tokens // 128)), torch.empty(2, 2, -(-tokens // 64))
    quantised = (q.to(int8), k.to(int8), k, q_scale, k_scale)
    for dtype, name in itertools.product((half, bf16, torch.float), ("per_block", "per_thread")):
        yield f"quant_{name}", f"{name}_int8", f"{dtype}", (q.to(dtype), k.to(dtype)), {}
    mask_types = (torch.bool, half, bf16, torch.float)
    masks = [None, *(torch.empty(1, 1, tokens, tokens, dtype=dtype) for dtype in mask_types)]
    for mask, lse in itertools.product(masks, (False, True) if tokens % 16 == 0 else (False,)):
        for dtype in (half, bf16) if mask is None or mask.dtype.itemsize != 2 else (mask.dtype,):
            options = {"output_dtype": dtype, "return_lse": lse}
            variant = f"{dtype}{', lse' if lse else ''}"
            masked = options | {"attn_mask": None if mask is None else mask.expand(2, 4, tokens, tokens)}
            which = f"{variant}, mask {mask if mask is None else mask.dtype}"
            yield "attn_qk_int8_per_block", "forward", which, quantised, masked
            if mask is None:
                yield "attn_qk_int8_per_block_causal", "forward", variant, quantised, options
    for dtype, starts_type in itertools.product((half, bf16), (torch.int32, torch.int64)):
        packed_q, packed_k = (x.reshape(-1, x.size(1), head_dim) for x in (q, k))
        ends = torch.tensor([0, tokens, 2 * tokens], dtype=starts_type)
        scales = torch.empty(2 * q_scale.size(2), 4), torch.empty(2 * k_scale.size(2), 2)
        blocks = torch.tensor([0, 1, 2])
        variant = f"{dtype}, {starts_type}"
        for given in (dtype, torch.float):
            packed = (packed_q.to(given), packed_k.to(given), ends, ends, tokens, tokens)
            yield "quant_per_block_varlen", "per_block_int8", f"{given}, {starts_type}", packed, {}
        tensors = (packed_q.to(int8), packed_k.to(int8), packed_k)
        for name in ("attn_qk_int8_block_varlen", "attn_qk_int8_per_block_causal_varlen"):
            arguments = (*tensors, ends, ends, tokens, *scales, blocks, blocks)
            yield name, "forward", variant, arguments, {"output_dtype": dtype}


class Launches:
    """The launches of a package."""

    def __init__(self, folder: Path) -> None:
        # The package's own __init__ loads extensions, for which torch has to be the one that they are for.
        package = types.ModuleType("sageattention")
        package.__path__ = [str(folder / "sageattention")]
        sys.modules["sageattention"] = package
        names = [found.name for found in pkgutil.iter_modules([str(folder / "sageattention" / "triton")])]
        self.modules = {name: importlib.import_module(f"sageattention.triton.{name}") for name in names}
        self.jobs: Jobs = {}  # (GPU, kernel, source) -> the kernel, with its types, constants and options
        self.problems: list[str] = []

    def collect(self, gpu: str) -> None:
        """Make all calls, as on a GPU of this compute capability."""
        capability = tuple(map(int, gpu.split(".")))
        properties = types.SimpleNamespace(
            major=capability[0], minor=capability[1], shared_memory_per_block_optin=SHARED_BYTES[gpu]
        )
        current: list[tuple[JITFunction[Any], dict[str, Any]]] = []

        def launch(kernel: JITFunction[Any], *args: Any, **kwargs: Any) -> None:
            options = {name: value for name, value in kwargs.items() if name not in ("grid", "warmup")}
            current.append((kernel, specialise(kernel, args, options)))

        with (
            mock.patch.object(JITFunction, "run", launch),
            mock.patch("torch.cuda.get_device_capability", return_value=capability),
            mock.patch("torch.cuda.get_device_properties", return_value=properties),
        ):
            for head_dim, tokens in itertools.product((64, 128), (2048, 2047)):
                for module, launcher, call, args, kwargs in _calls(head_dim, tokens):
                    if module not in self.modules:
                        continue
                    variant = f"head dim {head_dim}, {tokens} tokens, {call.replace('torch.', '')}"
                    current.clear()
                    try:
                        getattr(self.modules[module], launcher)(*args, **kwargs)
                    except Exception as error:
                        problem = f"{type(error).__name__}: {error}"
                        self.problems.append(f"{module}.{launcher}, {variant}: {problem}")
                    for kernel, source in current:
                        key = (gpu, f"{module}.{kernel.__name__}", repr(source))
                        self.jobs.setdefault(key, (kernel, source | {"variant": variant}))

    def uncompiled(self) -> Iterator[str]:
        """Yield the kernels that a function of their module names, and that no call has reached."""
        reached = {id(kernel) for kernel, _ in self.jobs.values()}
        for name, module in self.modules.items():
            functions = [value for value in vars(module).values() if inspect.isfunction(value)]
            named = {word for each in functions for word in inspect.unwrap(each).__code__.co_names}
            for kernel_name, kernel in vars(module).items():
                if isinstance(kernel, JITFunction) and kernel_name in named and id(kernel) not in reached:
                    yield f"{name}.{kernel_name}: no call of this script launches it"


def specialise(kernel: JITFunction[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return signature, constants, attributes and options of a launch, as Triton's launcher makes them."""
    parameters = {parameter.name: parameter for parameter in kernel.params}
    bound = inspect.signature(kernel.fn).bind(*args, **{k: v for k, v in kwargs.items() if k in parameters})
    bound.apply_defaults()
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, (name, value) in enumerate(bound.arguments.items()):
        parameter = parameters[name]
        number = isinstance(value, int) and not isinstance(value, bool)
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (number and value == 1 and specialised):
            signature[name], constants[name] = "constexpr", value
            continue
        divisible = number and value % 16 == 0
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[str(value.dtype).removeprefix('torch.')]}"
            divisible = value.data_ptr() % 16 == 0
        elif number:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        else:
            signature[name] = "i1" if isinstance(value, bool) else "fp32"
        if divisible and specialised and not parameter.do_not_specialize_on_alignment:
            attributes[i,] = [["tt.divisibility", 16]]
    options = {name: value for name, value in kwargs.items() if name not in parameters}
    return {"signature": signature, "constants": constants, "attributes": attributes, "options": options}


_forked: Jobs = {}


def _compile(key: tuple[Any, ...]) -> dict[str, Any]:
    gpu, (kernel, job) = key[0], _forked[key]
    source = ASTSource(kernel, job["signature"], constexprs=job["constants"], attrs=job["attributes"])
    target = GPUTarget("cuda", int(gpu.replace(".", "")), 32)
    try:
        compiled = triton.compile(source, target=target, options=dict(job["options"]))
    except Exception as error:
        return {"problem": f"does not compile: {type(error).__name__}: {str(error).splitlines()[-1:]}"}
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        output = subprocess.check_output([tool, "--dump-resource-usage", file.name], text=True)
    values = dict(re.findall(r"\b(REG|STACK):(\d+)", output))  # the stack is what registers spill to
    shared = compiled.metadata.shared
    usage = {"shared_bytes": shared, "registers": int(values["REG"]), "stack_bytes": int(values["STACK"])}
    registers = REGISTERS_OF_A_BLOCK // (32 * compiled.metadata.num_warps)
    limits = {"shared_bytes": SHARED_BYTES[gpu], "registers": registers}
    broken = [f"{usage[what]:,} {what} of {most:,}" for what, most in limits.items() if usage[what] > most]
    return usage | {"problem": f"needs {', '.join(broken)}" if broken else ""}


def main() -> int:
    """Print the Triton, the worst use of each kernel for each GPU, and the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=sysconfig.get_path("purelib"))
    parser.add_argument("--gpu", action="append", choices=SHARED_BYTES, help="only these; repeatable")
    options = parser.parse_args()
    launches = Launches(Path(options.folder).resolve())
    for gpu in options.gpu or SHARED_BYTES:
        launches.collect(gpu)
    problems = [*launches.problems, *launches.uncompiled()]
    worst: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": cache}),
        # Forked, so that the kernels need not be pickled.
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool,
    ):
        _forked.update(launches.jobs)
        found = pool.map(_compile, _forked)
        for ((gpu, kernel, _), (_, job)), usage in zip(_forked.items(), found, strict=True):
            if problem := usage.pop("problem"):
                problems.append(f"{kernel} on {gpu}, {job['variant']}: {problem}")
                continue
            known = worst.setdefault(f"{kernel} on {gpu}", dict.fromkeys(usage, 0) | {"variants": 0})
            known |= {what: max(known[what], value) for what, value in usage.items()}
            known["variants"] += 1
    report = {"triton": triton.__version__, "compiled": len(_forked), "worst": worst, "problems": problems}
    print(json.dumps(report, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
