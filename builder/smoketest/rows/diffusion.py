"""diffusers' backends for SageAttention on a small random-weight transformer, against its native one."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.subject import Subject, problems_of
from builder.smoketest.plan import DIFFUSERS_BACKENDS, Check
from builder.smoketest.report.outcome import Result, not_applicable, verdict
from builder.smoketest.rows.conduct.streams import SLOW_CYCLES, same_bits

LARGEST_ERROR = 0.02
"""Relative error of the transformer's output: 0.003 to 0.008 on an H100, and 1 where attention is wrong."""
CONFIGURATION: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 128,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 512,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}


@dataclass
class Transformer:
    """A Wan transformer of two layers, its inputs, and its output with diffusers' native backend."""

    parts: dict[str, Any] = field(default_factory=dict)

    def get(self, device: str) -> tuple[Any, dict[str, Any], torch.Tensor]:
        """Return the three; they are made once."""
        if not self.parts:
            torch.manual_seed(0)
            model = importlib.import_module("diffusers").WanTransformer3DModel(**CONFIGURATION)
            model = model.to(device, torch.bfloat16).eval()
            inputs = {
                "hidden_states": torch.randn(2, 4, 5, 32, 32, device=device, dtype=torch.bfloat16),
                "timestep": torch.tensor([500, 500], device=device),
                "encoder_hidden_states": torch.randn(2, 77, 64, device=device, dtype=torch.bfloat16),
                "return_dict": False,
            }
            model.set_attention_backend("native")
            self.parts = {"model": model, "inputs": inputs, "native": model(**inputs)[0].clone()}
        return self.parts["model"], self.parts["inputs"], self.parts["native"]


def _missing(subject: Subject, check: Check) -> str:
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers is not installed"
    return check.kernel.why_not(subject.capability)


def backend(subject: Subject, check: Check) -> Result:
    """A backend's output is near the native one's, and has the same bits on a side stream."""
    if reason := _missing(subject, check):
        return not_applicable(reason)
    return _run(subject, check.case)


def others(subject: Subject, check: Check) -> Result:
    """Backends that this version of diffusers has besides, but for those that it downloads."""
    if reason := _missing(subject, check):
        return not_applicable(reason)
    dispatch = importlib.import_module("diffusers.models.attention_dispatch")
    names = [str(one.value) for one in dispatch.AttentionBackendName]
    more = [
        name
        for name in names
        if "sage" in name and not name.endswith("_hub") and name not in DIFFUSERS_BACKENDS
    ]
    problems = problems_of({name: partial(_reasons, subject, name) for name in more})
    gone = [name for name in DIFFUSERS_BACKENDS if name not in names]
    return verdict(problems, {"more": float(len(more)), "gone": float(len(gone))})


def _reasons(subject: Subject, name: str) -> list[str]:
    reason = _run(subject, name).reason
    return [reason] if reason else []


def _run(subject: Subject, name: str) -> Result:
    model, inputs, native = subject.kept(Transformer).get(subject.device)
    model.set_attention_backend(name)
    poison(subject.device)
    out = model(**inputs)[0].clone()
    problems, error = _near(out, native)
    if subject.on_gpu:
        stream = torch.cuda.Stream(subject.device)
        late = {**inputs, "hidden_states": torch.full_like(inputs["hidden_states"], float("nan"))}
        torch.cuda.synchronize(subject.device)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLOW_CYCLES)
            late["hidden_states"].copy_(inputs["hidden_states"])
            aside = model(**late)[0].clone()
        stream.synchronize()
        if not problems and not same_bits(aside, out):
            problems.append("differs on a side stream")
    return verdict(problems, {"relative_error": error}, {"relative_error": f"<= {LARGEST_ERROR}"})


def _compiled(subject: Subject, check: Check, *, mode: str) -> Result:
    """The compiled transformer with the backend that asks `sageattn`, three times with the same inputs."""
    if reason := _missing(subject, check):
        return not_applicable(reason)
    model, inputs, native = subject.kept(Transformer).get(subject.device)
    model.set_attention_backend("sage")
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, mode=mode)
        for _ in range(3):  # CUDA graphs are captured in the second call, and replayed in the third
            out = compiled(**inputs)[0].clone()
    torch._dynamo.reset()
    problems, error = _near(out, native)
    return verdict(problems, {"relative_error": error}, {"relative_error": f"<= {LARGEST_ERROR}"})


compiled = partial(_compiled, mode="default")
compiled_graphs = partial(_compiled, mode="reduce-overhead")


def _near(out: torch.Tensor, native: torch.Tensor) -> tuple[list[str], float]:
    error = float(((out.float() - native.float()).norm() / native.float().norm()).item())
    return ([] if error <= LARGEST_ERROR else [f"relative error {error:.4f} > {LARGEST_ERROR}"]), error
