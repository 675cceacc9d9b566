"""Inputs as models make them: channels, tokens and hidden keys that are far larger than the rest."""

from __future__ import annotations

import torch

from builder.smoketest.attention.compare import attention, relative_error
from builder.smoketest.attention.inputs import poison
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import RowSpec
from builder.smoketest.report import Result, verdict

HEADS = 8
LARGEST_ERROR = {"fp8": 0.05, "fp16": 0.045}
"""By the number format of P and V; 0.037 and 0.011 for normal inputs."""


def inputs(kind: str, tokens: int, head_dim: int, device: str) -> list[torch.Tensor]:
    """Return Q, K and V in bf16: normal, but for what `kind` says."""
    q, k, v = (torch.randn(1, HEADS, tokens, head_dim, device=device) for _ in range(3))
    some = torch.randperm(head_dim, device=device)
    if kind == "K: 2 channels x50":
        k[..., some[:2]] *= 50
    elif kind == "K: 4 channels x10":
        k[..., some[:4]] *= 10
    elif kind == "Q and K: 4 channels x8":
        q[..., some[:4]] *= 8
        k[..., some[:4]] *= 8
    elif kind == "heavy tails":
        # Student's t with 3 degrees of freedom: a normal over the root of a chi-squared.
        q, k = (x / (torch.randn(3, *x.shape, device=device).square().sum(0) / 3).sqrt() for x in (q, k))
    elif kind == "log-normal channel scales":
        # At quantiles of the distribution, so that no draw decides.
        k *= torch.special.ndtri((some + 0.5) / head_dim).exp()
    elif kind == "RoPE-like pairs x20":
        angles = torch.arange(tokens, device=device)[:, None] * 0.01
        pair = 20 * torch.cat((angles.cos(), angles.sin()), dim=1)
        k[..., [0, head_dim // 2]] += pair
    elif kind == "one value over the channels":
        k += torch.randn(1, HEADS, tokens, 1, device=device)
    elif kind == "K's bias of 30":
        k[..., some[:3]] += 30
    elif kind == "hidden keys x30":
        k[:, :, tokens // 2 :] *= 30
        v[:, :, tokens // 2 :] *= 30
    return [x.bfloat16() for x in (q, k, v)]


def compare(subject: Subject, spec: RowSpec) -> Result:
    """Compare a result with exact attention, at both head dims of the kernels."""
    limit = LARGEST_ERROR[spec.kernel.family]
    tokens = 2048 if subject.on_gpu else 256
    figures, problems = {}, []
    for head_dim in (64, 128):
        q, k, v = inputs(spec.case, tokens, head_dim, subject.device)
        hidden = torch.arange(tokens, device=subject.device) < tokens // 2
        mask = hidden[None, None, None] if spec.case.startswith("hidden") else None
        arguments = {} if mask is None else {"attn_mask": mask}
        if spec.case.startswith("K's bias") and spec.kernel.total:
            arguments = {"smooth_k": False}
        poison(subject.device)
        out = subject.attend(spec.kernel, q, k, v, **arguments)
        # Rows from the start to the end are enough.
        rows = torch.linspace(0, tokens - 1, 256, device=subject.device).long()
        right, _ = attention(q, k, v, mask=mask, rows=rows)
        error = relative_error(out[:, :, rows], right)
        figures[f"relative_error_d{head_dim}"] = error
        problems += [] if error <= limit else [f"head_dim {head_dim}: relative error {error:.4f} > {limit}"]
    figures["relative_error"] = max(figures.values())
    return verdict(problems, figures, {"relative_error": f"<= {limit}"})
