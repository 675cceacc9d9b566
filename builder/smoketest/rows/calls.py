"""Calls SageAttention as other projects do: the names and calls of `contract.json`."""

from __future__ import annotations

from typing import Any

import torch

from builder.smoketest.attention import contract, tolerances
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.inputs import POISON_BYTE, make, poison
from builder.smoketest.attention.kernels import default_family
from builder.smoketest.attention.reference import attention, packed_attention
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.accuracy import judge_lse, judge_output
from builder.smoketest.run.environment import compiled_files

CASE = Case((320, 450), layout="NHD")
SEQUENCES = ((128, 200), (192, 250))
"""The same tokens as two packed sequences."""
LOG2_E = 1.4426950408889634


def names(_subject: Subject, _: Check) -> Result:
    """Every name is there, and every call fits the signature of what it calls."""
    return verdict(
        contract.problems(compiled_files().keys()), {"names": float(len(contract.load()["names"]))}
    )


def made(subject: Subject, check: Check) -> Result:
    """Make one client's call, step by step, and compare what it computes with attention."""
    kernel = check.kernel
    if reason := kernel.why_not(subject.capability):
        return not_applicable(reason)
    if kernel.module and subject.compiled_module(kernel.module) is None:
        return not_applicable("the wheel has no such module")
    call = next(
        one for one in contract.load()["calls"] if (one["client"], one["case"]) == (kernel.key, check.asked)
    )
    values = given(check.seed(subject.seed), subject.device)
    poison(subject.device)
    for step in call["steps"]:
        _take(step, values, subject.device)
    if left := subject.left_behind():
        return verdict([f"left a CUDA error behind: {left}"])
    q, k, v = (values[name].transpose(1, 2) for name in "qkv")
    causal = call.get("causal", False)
    if call.get("packed"):
        packed = (values[f"{name}_packed"] for name in "qkv")
        right, right_lse = packed_attention(*packed, sequences=SEQUENCES, causal=causal), None
        out = values["out"]
    else:
        right, right_lse = attention(
            q, k, v, causal=causal, mask=values["mask"] if call.get("masked") else None
        )
        out = values["out"].transpose(1, 2)
    family = default_family(subject.capability) if kernel.family == "default" else kernel.family
    problems, figures, limits = judge_output(out, right, tolerances.FAMILIES[family])
    if "lse" in values and right_lse is not None:
        problems += judge_lse(values["lse"], right_lse)[0]
    return verdict(problems, figures, limits)


def given(seed: int, device: str) -> dict[str, Any]:
    """Return what a call's values can name: the inputs, and what clients compute of them first."""
    inputs = make(CASE, seed, device)
    q, k, v = inputs.tensors
    mean = k.mean(dim=1, keepdim=True)
    starts = [torch.tensor([0, *ends], dtype=torch.int32).cumsum(0) for ends in zip(*SEQUENCES, strict=True)]
    generator = torch.Generator(device=device).manual_seed(seed)
    mask = torch.rand((1, 1, *CASE.lengths), generator=generator, device=device) < 0.7
    scale = float(CASE.head_dim**-0.5)
    values: dict[str, Any] = {
        "q": q,
        "k": k,
        "v": v,
        "k_mean": mean,
        "k_mean_of_heads": mean.squeeze(1),
        "k_centred": k - mean,
        "v_padded": torch.nn.functional.pad(v, (0, 0, 0, 0, 0, -v.shape[1] % 128)),
        "mask": mask.expand(1, CASE.heads, *CASE.lengths),
        "sm_scale": scale,
        "sm_scale_log2": scale * LOG2_E,
        "dtype": q.dtype,
        "cu_seqlens_q": starts[0].int().to(device),
        "cu_seqlens_k": starts[1].int().to(device),
        "max_seqlen_q": max(queries for queries, _ in SEQUENCES),
        "max_seqlen_k": max(keys for _, keys in SEQUENCES),
    }
    packed = {f"{name}_packed": values[name].squeeze(0) for name in ("q", "k", "v", "k_centred")}
    return values | packed


def _take(step: dict[str, Any], values: dict[str, Any], device: str) -> None:
    """Make a tensor full of NaN, call a function, or launch a Triton kernel."""
    if "new" in step:
        dtype = getattr(torch, step["dtype"])
        size = torch.Size(step["shape"]).numel() * dtype.itemsize
        buffer = torch.full((size,), POISON_BYTE, dtype=torch.uint8, device=device)
        values[step["new"]] = buffer.view(dtype).view(step["shape"])
        return
    positional = [_value(one, values) for one in step["args"]]
    keywords = {name: _value(one, values) for name, one in step.get("keywords", {}).items()}
    if "launch" in step:
        contract.find(step["launch"])[tuple(step["grid"])](*positional, **keywords)
        return
    result = contract.find(step["call"])(*positional, **keywords)
    into = step.get("into", [])
    values.update(zip(into, result if len(into) > 1 else (result,), strict=True) if into else ())


def _value(one: Any, values: dict[str, Any]) -> Any:
    if not (isinstance(one, str) and one.startswith("$")):
        return one
    name, _, dimension = one[1:].partition(".stride.")
    return values[name].stride(int(dimension)) if dimension else values[name]
