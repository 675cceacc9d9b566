"""Calls SageAttention as other projects do: the names and calls of `client_calls.json`."""

from __future__ import annotations

from typing import Any

import torch

from builder.smoketest.attention import client_calls
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import (
    FAMILIES,
    attention,
    judge_lse,
    judge_output,
    packed_attention,
)
from builder.smoketest.attention.inputs import (
    GUARD_ELEMENTS,
    POISON_BYTE,
    cu_seqlens,
    guarded,
    make,
    poison,
)
from builder.smoketest.attention.kernels import default_family
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, not_applicable, verdict
from builder.smoketest.run.environment import compiled_files

CASE = Case((320, 450), layout="NHD")
SEQUENCES = ((128, 200), (192, 250))
"""The same tokens as two packed sequences."""
LOG2_E = 1.4426950408889634


def names(_subject: Subject, _: RowSpec) -> Result:
    """Every name is there, and every call fits the signature of what it calls."""
    return verdict(
        client_calls.problems(compiled_files().keys()), {"names": float(len(client_calls.load()["names"]))}
    )


def made(subject: Subject, spec: RowSpec) -> Result:
    """Make one client's call, step by step, and compare what it computes with attention."""
    kernel = spec.kernel
    if reason := kernel.why_not(subject.capability):
        return not_applicable(reason)
    if kernel.module and subject.compiled_module(kernel.module) is None:
        return not_applicable("the wheel has no such module")
    wanted = (kernel.key, spec.case)
    call = next(one for one in client_calls.load()["calls"] if (one["client"], one["case"]) == wanted)
    values = call_values(spec.seed(subject.seed), subject.device)
    poison(subject.device)
    for step in call["steps"]:
        _take(step, values, subject.device)
    if left := subject.left_behind():
        return verdict([f"left a CUDA error behind: {left}"])
    q, k, v = (values[name].transpose(1, 2) for name in "qkv")
    if call.get("grouped"):
        k, v = k[:, ::4], v[:, ::4]
    causal = call.get("causal", False)
    mask = values[call["mask"]] if "mask" in call else None
    out = values[call.get("out", "out")]
    if call.get("packed"):
        packed = (x.transpose(1, 2).squeeze(0) for x in (values["q"].transpose(1, 2), k, v))
        right, right_lse = packed_attention(*packed, sequences=SEQUENCES, causal=causal), None
    else:
        right, right_lse = attention(q, k, v, causal=causal, mask=mask)
        out = out if call.get("layout") == "HND" else out.transpose(1, 2)
    family = default_family(subject.capability) if kernel.family == "default" else kernel.family
    problems, figures, limits = judge_output(out, right, FAMILIES[family])
    for buffer in values["buffers"]:
        ends = (buffer[:GUARD_ELEMENTS].view(torch.uint8), buffer[-GUARD_ELEMENTS:].view(torch.uint8))
        problems += (
            [] if all(bool((end == POISON_BYTE).all()) for end in ends) else ["wrote outside an output"]
        )
    if "lse" in values and right_lse is not None:
        problems += judge_lse(values["lse"], right_lse)[0]
    return verdict(problems, figures, limits)


def call_values(seed: int, device: str) -> dict[str, Any]:
    """Return what a call's values can name: the inputs, and what clients compute of them first."""
    q, k, v = make(CASE, seed, device).tensors
    mean = k.mean(dim=1, keepdim=True)
    queries, keys = zip(*SEQUENCES, strict=True)
    generator = torch.Generator(device=device).manual_seed(seed)
    mask = torch.rand((1, 1, *CASE.lengths), generator=generator, device=device) < 0.7
    padding = (torch.arange(CASE.lengths[1], device=device) < 400)[None, None, None]
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
        "padding": padding,
        "padding_float": torch.zeros_like(padding, dtype=q.dtype).masked_fill(~padding, float("-inf")),
        "sm_scale": scale,
        "sm_scale_log2": scale * LOG2_E,
        "dtype": q.dtype,
        "buffers": [],  # of the tensors that the steps make
        "cu_seqlens_q": cu_seqlens(queries, device),
        "cu_seqlens_k": cu_seqlens(keys, device),
        # With a sequence in the middle that is empty.
        "cu_seqlens_q_gap": cu_seqlens((queries[0], 0, queries[1]), device),
        "cu_seqlens_k_gap": cu_seqlens((keys[0], 0, keys[1]), device),
        "max_seqlen_q": max(queries),
        "max_seqlen_k": max(keys),
    }
    values["q_strided"] = torch.cat((q, q), dim=-1)[..., : CASE.head_dim]
    values |= {f"{name}_heads_first": values[name].transpose(1, 2) for name in "qkv"}
    # Every fourth head of K and V, for grouped-query attention.
    values |= {f"{name}_grouped": values[name][:, :, ::4].contiguous().squeeze(0) for name in "kv"}
    values |= {f"{name}_packed": values[name].squeeze(0) for name in ("q", "k", "v", "k_centred")}
    return values


def _take(step: dict[str, Any], values: dict[str, Any], device: str) -> None:
    """Make a tensor full of NaN, call a function, or launch a Triton kernel."""
    if "new" in step:
        values[step["new"]], buffer = guarded(tuple(step["shape"]), getattr(torch, step["dtype"]), device)
        values["buffers"].append(buffer)
        return
    positional = [_value(one, values) for one in step["args"]]
    keywords = {name: _value(one, values) for name, one in step.get("keywords", {}).items()}
    if "launch" in step:
        client_calls.find(step["launch"])[tuple(step["grid"])](*positional, **keywords)
        return
    function = client_calls.find(step["call"])
    if step.get("compiled"):
        function = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    result = function(*positional, **keywords)
    into = step.get("into", [])
    values.update(zip(into, result if len(into) > 1 else (result,), strict=True) if into else ())


def _value(one: Any, values: dict[str, Any]) -> Any:
    if not (isinstance(one, str) and one.startswith("$")):
        return one
    name, _, dimension = one[1:].partition(".stride.")
    return values[name].stride(int(dimension)) if dimension else values[name]
