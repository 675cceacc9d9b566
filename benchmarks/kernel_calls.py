"""The call of each row on the imported copy. Needs torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from benchmarks.kernel_inputs import DTYPES, Inputs, place
from benchmarks.kernel_rows import ATTENTION, FUNCTION, SDPA, Row
from builder.smoketest.attention.kernels import ALL

KERNELS = {kernel.key: kernel for kernel in ALL}
LOG2_E = 1.4426950408889634

Call = Callable[[], tuple[torch.Tensor, ...]]


def call_of(row: Row, package: ModuleType, inputs: Inputs) -> Call:
    """Return the call of a row, with its inputs ready.

    Args:
        row: What is called.
        package: The copy.
        inputs: The tensors that it is called with.
    """
    inputs.turn_to(row)
    if row.kind == FUNCTION:
        return _function(inputs, package, row)
    return _attention(inputs, row) if row.kind == ATTENTION else _quantisation(inputs, row)


def _function(inputs: Inputs, package: ModuleType, row: Row) -> Call:
    q, k, v = inputs.qkv(row)
    if row.name == SDPA:
        scaled = torch.nn.functional.scaled_dot_product_attention
        return lambda: (scaled(q, k, v, is_causal=row.causal),)
    kernel = KERNELS[row.name]
    function = getattr(package, kernel.function)
    arguments = dict(kernel.arguments) | {"tensor_layout": row.layout, "is_causal": row.causal}
    if row.lse:
        arguments["return_lse"] = True

    def call() -> tuple[torch.Tensor, ...]:
        result = function(q, k, v, **arguments)
        return result if isinstance(result, tuple) else (result,)

    return call


def _attention(inputs: Inputs, row: Row) -> Call:
    """Return a call of a compiled attention function on quantised inputs: int8 Q and K, fp16 or fp8 V."""
    module, _, rest = row.name.partition(".")
    name, _, granularity = rest.partition("/")
    function = getattr(importlib.import_module(f"sageattention.{module}"), name)
    queries, keys = row.lengths
    dim, heads = row.head_dim, row.heads
    hopper = module == "_qattn_sm90"
    block_q, warp_q, block_k = (64, 16, 128) if hopper else (128, 32, 64)
    if name == "qk_int8_sv_f16_accum_f16_attn_inst_buf" and dim == 128:
        warp_q = 16
    per_thread = granularity == "per_thread"
    q_scales = -(-queries // block_q) * (block_q // warp_q) * (8 if per_thread else 1)
    k_scales = -(-keys // block_k) * (4 if per_thread else 1)
    arguments = [
        inputs.normal("q8", place(row, queries, dim), torch.int8, 32.0),
        inputs.normal("k8", place(row, keys, dim), torch.int8, 32.0),
    ]
    out = inputs.output("out", place(row, queries, dim), DTYPES[row.dtype])
    scales = [
        inputs.scales("q_scale", (1, heads, q_scales), 1 / 32),
        inputs.scales("k_scale", (1, heads, k_scales), 1 / 32),
    ]
    if "sv_f16" in name:
        arguments += [inputs.normal("v16", place(row, keys, dim), torch.float16), out, *scales]
        if "v_mean" in name:
            arguments.append(inputs.normal("v_mean", (1, heads, dim), DTYPES[row.dtype], 0.1))
    else:
        top = 2.25 if "accum_f16" in name else 448.0
        padded = -(-keys // block_k) * block_k
        shape = (1, heads, dim, padded) if row.layout == "HND" else (1, dim, heads, padded)
        arguments += [inputs.normal("v8", shape, torch.float8_e4m3fn, top / 4), out, *scales]
        if "v_scale" in name:
            arguments.append(inputs.scales("v_scale", (1, heads, dim), 4 / top))
        if "v_mean" in name:
            arguments.append(inputs.normal("v_mean32", (1, heads, dim), torch.float32, 0.1))
    layout = 1 if row.layout == "HND" else 0
    flags = (layout, int(row.causal), 3 if per_thread else 2, dim**-0.5, int(row.lse))

    def call() -> tuple[torch.Tensor, ...]:
        lse = function(*arguments, *flags)
        return (out, lse) if row.lse else (out,)

    return call


def _quantisation(inputs: Inputs, row: Row) -> Call:
    """Return a call of a compiled quantisation function."""
    name, _, variant = row.name.removeprefix("_fused.").partition("/")
    function = getattr(importlib.import_module("sageattention._fused"), name)
    tokens, _ = row.lengths
    dim, heads = row.head_dim, row.heads
    layout = 1 if row.layout == "HND" else 0
    dtype = DTYPES[row.dtype]
    x = inputs.normal("x", place(row, tokens, dim), dtype)
    mean = inputs.normal("mean", (1, heads, dim), dtype, 0.1)
    int8 = inputs.output("int8", place(row, tokens, dim), torch.int8)
    padded = -(-tokens // 64) * 64
    turned_shape = (1, heads, dim, padded) if layout else (1, dim, heads, padded)
    channels = (1, heads, dim)

    def scale(block: int, warps: int = 1) -> Any:
        return inputs.output("scale", (1, heads, -(-tokens // block) * warps), torch.float32)

    results: tuple[torch.Tensor, ...]
    arguments: list[Any]
    if name.startswith("quant_per_block"):
        block = int(variant.split("-")[0])
        results = (int8, scale(block))
        given = [x, mean] if "sub_mean" in name else [x]
        factor = [dim**-0.5 * LOG2_E] if variant.endswith("scaled") else []
        arguments = [*given, *results, *factor, block, layout]
    elif name == "quant_per_warp_int8_cuda":
        block, warp = map(int, variant.split("-"))
        results = (int8, scale(block, block // warp))
        arguments = [x, *results, block, warp, layout]
    elif name == "sub_mean_cuda":
        results = (inputs.output("half", place(row, tokens, dim), torch.float16),)
        arguments = [x, mean, *results, layout]
    elif name == "transpose_pad_permute_cuda":
        results = (inputs.output("turned", turned_shape, dtype),)
        arguments = [x, *results, layout]
    else:
        turned = inputs.normal("turned", turned_shape, dtype)
        fp8 = inputs.output("fp8", turned_shape, torch.float8_e4m3fn)
        per_channel = inputs.output("per channel", channels, torch.float32)
        means = inputs.output("means", channels, torch.float32)
        results = (fp8, means, per_channel) if name.startswith("mean") else (fp8, per_channel)
        arguments = [turned, *results, tokens, 448.0, layout]

    def call() -> tuple[torch.Tensor, ...]:
        function(*arguments)
        return results

    return call
