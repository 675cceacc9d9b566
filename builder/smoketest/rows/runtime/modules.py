"""The compiled modules' own functions, called by position as other projects call them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import (
    FAMILIES,
    attention,
    judge_lse,
    judge_output,
    relative_error,
)
from builder.smoketest.attention.inputs import POISON_BYTE, Inputs, guarded, make, poison
from builder.smoketest.attention.kernels import MODULE_FUNCTIONS
from builder.smoketest.attention.subject import Subject, one_line
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict

LOG2_E = 1.4426950408889634
PER_WARP = 2
CASE = Case((320, 450), return_lse=True)
PERMUTED = (0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15)
"""The order of tokens, within 16, that the fp8 kernels take V in (docstring of ``per_channel_fp8``)."""

Attempt = Callable[[], tuple[list[str], float]]
"""Returns problems and the relative error."""


def functions(subject: Subject, spec: RowSpec) -> Result:
    """Call every function of a module in both layouts."""
    module = subject.compiled_module(spec.kernel.module)
    if module is None:
        return not_applicable("the wheel has no such module")
    problems: list[str] = []
    figures: dict[str, float] = {}
    for layout in ("HND", "NHD"):
        inputs = make(Case(CASE.lengths, layout=layout), spec.seed(subject.seed), subject.device)
        attempts = _quantisation if spec.kernel.module == "_fused" else _attention
        for name, attempt in attempts(module, spec.kernel.module, inputs, layout).items():
            poison(subject.device)
            try:
                wrong, figures[f"{name}/{layout}"] = attempt()
            except Exception as error:
                wrong = [one_line(error)]
            left = subject.left_behind()
            wrong += [f"left a CUDA error behind: {left}"] if left else []
            problems += [f"{name} ({layout}): {problem}" for problem in wrong]
    return verdict(problems, figures)


def _quantisation(fused: Any, _: str, inputs: Inputs, layout: str) -> dict[str, Attempt]:
    """The quantisation functions, each checked by undoing what it did."""
    at = 1 if layout == "HND" else 0
    q, k, v = inputs.tensors
    heads, dim = CASE.heads, CASE.head_dim
    queries, keys = CASE.lengths
    token_dim = 2 if at else 1

    def first(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if at else tensor.transpose(1, 2)

    def undone(
        quantised: torch.Tensor, scale: torch.Tensor, block: int, right: torch.Tensor
    ) -> tuple[list[str], float]:
        factors = scale.repeat_interleave(block, dim=2)[:, :, : right.shape[2], None]
        return _relative(first(quantised).float() * factors, right, 0.02)

    def empty_int8(tensor: torch.Tensor, scales: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(tensor, 77, dtype=torch.int8), _nan((1, heads, scales), torch.float32, q)

    def per_block_scaled() -> tuple[list[str], float]:
        out, scale = empty_int8(q, -(-queries // 128))
        fused.quant_per_block_int8_cuda(q, out, scale, 0.125 * LOG2_E, 128, at)
        return undone(out, scale, 128, first(q).float() * 0.125 * LOG2_E)

    def per_block() -> tuple[list[str], float]:
        out, scale = empty_int8(k, -(-keys // 64))
        fused.quant_per_block_int8_cuda(k, out, scale, 64, at)
        return undone(out, scale, 64, first(k).float())

    def sub_mean_quant() -> tuple[list[str], float]:
        out, scale = empty_int8(k, -(-keys // 64))
        mean = k.mean(dim=token_dim)
        fused.quant_per_block_int8_fuse_sub_mean_cuda(k, mean, out, scale, 64, at)
        return undone(out, scale, 64, first(k).float() - mean.float().unsqueeze(2))

    def per_warp() -> tuple[list[str], float]:
        out, scale = empty_int8(q, -(-queries // 128) * 4)
        fused.quant_per_warp_int8_cuda(q, out, scale, 128, 32, at)
        return undone(out, scale, 32, first(q).float())

    def sub_mean() -> tuple[list[str], float]:
        out, mean = _nan(tuple(v.shape), torch.float16, v), v.mean(dim=token_dim)
        fused.sub_mean_cuda(v, mean, out, at)
        return _relative(first(out).float(), first(v).float() - mean.float().unsqueeze(2), 0.002)

    padded = -(-keys // 64) * 64
    turned = (1, heads, dim, padded) if at else (1, dim, heads, padded)

    def permuted(tensor: torch.Tensor) -> torch.Tensor:
        """``[batch, heads, tokens, dim]`` as ``[batch, heads, dim, padded]``, permuted within 16 tokens."""
        wide = torch.nn.functional.pad(tensor, (0, 0, 0, padded - keys)).transpose(2, 3)
        order = torch.arange(padded, device=v.device).view(-1, 16)[:, list(PERMUTED)].reshape(-1)
        return wide[..., order]

    def transposed() -> torch.Tensor:
        out = _nan(turned, v.dtype, v)
        fused.transpose_pad_permute_cuda(v, out, at)
        return out

    def transpose() -> tuple[list[str], float]:
        return _relative(first(transposed()).float(), permuted(first(v).float()), 0.0)

    def quantised_v(mean: bool) -> tuple[list[str], float]:
        source = transposed()
        out = torch.full(turned, POISON_BYTE, dtype=torch.uint8, device=v.device).view(torch.float8_e4m3fn)
        scale, middle = (_nan((1, heads, dim), torch.float32, v) for _ in range(2))
        if mean:
            fused.mean_scale_fuse_quant_cuda(source, out, middle, scale, keys, 448.0, at)
        else:
            fused.scale_fuse_quant_cuda(source, out, scale, keys, 448.0, at)
        back = first(out).float() * scale[..., None] + (middle[..., None] if mean else 0)
        real = permuted(torch.ones_like(first(v), dtype=torch.float32))
        return _relative(back * real, permuted(first(v).float()), 0.04)

    return {
        "quant_per_block_int8_cuda with scale": per_block_scaled,
        "quant_per_block_int8_cuda": per_block,
        "quant_per_block_int8_fuse_sub_mean_cuda": sub_mean_quant,
        "quant_per_warp_int8_cuda": per_warp,
        "sub_mean_cuda": sub_mean,
        "transpose_pad_permute_cuda": transpose,
        "scale_fuse_quant_cuda": partial(quantised_v, False),
        "mean_scale_fuse_quant_cuda": partial(quantised_v, True),
    }


def _relative(result: torch.Tensor, right: torch.Tensor, limit: float) -> tuple[list[str], float]:
    error = relative_error(result, right)
    return ([] if error <= limit else [f"relative error {error:.4f} > {limit}"]), error


def _nan(shape: tuple[int, ...], dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=like.device)


def _attention(module: Any, name: str, inputs: Inputs, layout: str) -> dict[str, Attempt]:
    """The attention functions, called as ``core.py`` does, on an output between guards."""
    quant = importlib.import_module("sageattention.quant")
    at = 1 if layout == "HND" else 0
    q, k, v = inputs.tensors
    right, right_lse = attention(*inputs.heads_first(layout))
    hopper = name == "_qattn_sm90"
    blocks = {"BLKQ": 64, "WARPQ": 16, "BLKK": 128} if hopper else {}
    missing = -CASE.lengths[1] % 128 if hopper else 0
    padded_v = torch.nn.functional.pad(v, (0, 0, 0, missing) if at else (0, 0, 0, 0, 0, missing))

    def call(function: str) -> tuple[list[str], float]:
        warp = {"WARPQ": 16} if function == "qk_int8_sv_f16_accum_f16_attn_inst_buf" else {}
        q8, q_scale, k8, k_scale = quant.per_warp_int8(q, k, None, tensor_layout=layout, **{**blocks, **warp})
        out, buffer = guarded(tuple(q.shape), q.dtype, str(q.device))
        before = buffer.clone()
        has_mean, half = "v_mean" in function, "sv_f16" in function
        more: list[Any] = []
        scale_after: torch.Tensor | None = None
        if half:
            wide, mean = quant.sub_mean(v, tensor_layout=layout) if has_mean else (v, None)
        else:
            top = 2.25 if "accum_f16" in function else 448.0
            wide, v_scale, mean = quant.per_channel_fp8(
                padded_v, tensor_layout=layout, scale_max=top, smooth_v=has_mean
            )
            if "v_scale" in function:
                more.append(v_scale)
            else:
                scale_after = v_scale
        more += [mean] if has_mean else []
        rest = (at, 0, PER_WARP, CASE.head_dim**-0.5, 1)
        lse = getattr(module, function)(q8, k8, wide, out, q_scale, k_scale, *more, *rest)
        result = out if at else out.transpose(1, 2)
        if scale_after is not None:
            result = result.float() * scale_after[:, :, None, :]
        problems, figures, _ = judge_output(result, right, FAMILIES["fp16" if half else "fp8"])
        problems += judge_lse(lse / LOG2_E, right_lse)[0]
        ends = slice(0, (buffer.numel() - out.numel()) // 2)
        for part, old in ((buffer[ends], before[ends]), (buffer.flip(0)[ends], before.flip(0)[ends])):
            if not torch.equal(part.view(torch.uint8), old.view(torch.uint8)):
                problems.append("wrote outside the output")
        return problems, figures["relative_error"]

    return {function: partial(call, function) for function in MODULE_FUNCTIONS[name]}
