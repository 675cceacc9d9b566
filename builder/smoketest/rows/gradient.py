"""Gradients: `sageattn` and `sageattn_varlen` have torch's; functions that name a kernel have none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.compare import attention, bounds, judge_output, relative_error
from builder.smoketest.attention.inputs import make, pack, poison, unpack
from builder.smoketest.attention.subject import Attempts, Subject
from builder.smoketest.plan import RowSpec

CASE = Case((200, 333), head_dim=64)
LARGEST_ERROR = 0.01
"""Of a gradient from torch's own, in fp16; int8 would give more."""
Tensors = tuple[torch.Tensor, ...]


def _inputs(subject: Subject, spec: RowSpec) -> Tensors:
    return tuple(x.contiguous() for x in make(CASE, spec.seed(subject.seed), subject.device).tensors)


def _function(subject: Subject, spec: RowSpec, *, compiled: bool) -> Callable[..., torch.Tensor]:
    """Return the kernel's function on ``[batch, heads, tokens, head_dim]``, compiled or not."""
    kernel = spec.kernel
    function = partial(getattr(subject.module, kernel.function), **dict(kernel.arguments))

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **arguments: Any) -> Any:
        tensors = pack(q, k, v) if kernel.varlen else (q, k, v)
        out = function(*tensors, **arguments)
        return unpack(out, q) if kernel.varlen else out

    if not compiled:
        return call
    torch._dynamo.reset()
    one: Callable[..., torch.Tensor] = torch.compile(call, fullgraph=not kernel.varlen, backend="aot_eager")
    return one


def _raises(subject: Subject, spec: RowSpec, *, compiled: bool) -> Attempts:
    """Call with each input that requires grad alone, and with all; go back from the output."""
    tensors = _inputs(subject, spec)
    right, _ = attention(*tensors)
    call = _function(subject, spec, compiled=compiled)

    def back(which: str) -> list[str]:
        leaves = [
            tensor.clone().requires_grad_(name in which) for name, tensor in zip("qkv", tensors, strict=True)
        ]
        poison(subject.device)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = call(*leaves)
            problems = judge_output(out.detach(), right, bounds(spec.kernel, "fp16"))[0]
            if not out.requires_grad:
                return [*problems, "the output does not require grad: backward() is silent"]
            return problems + subject.refused(out.float().sum().backward, RuntimeError, "backward")

    return {f"{which} require grad": partial(back, which) for which in ("qkv", *"qkv")}


eager = partial(_raises, compiled=False)
compiled = partial(_raises, compiled=True)


def tangents(subject: Subject, spec: RowSpec) -> Attempts:
    """A function that names a kernel raises where an input carries a tangent, and drops none silently."""
    call = _function(subject, spec, compiled=False)
    tensors = _inputs(subject, spec)

    def forward() -> Any:
        out, tangent = torch.func.jvp(call, tensors, tuple(map(torch.ones_like, tensors)))
        if bool(tangent.any()):
            raise AssertionError("computed a tangent")
        return out

    return {"jvp": partial(subject.refused, forward, RuntimeError)}


def _exact(subject: Subject, spec: RowSpec, *, way: str) -> Attempts:
    """The gradients of all inputs, or their tangents, are those of torch's own function."""
    tensors = _inputs(subject, spec)
    weights = torch.randn_like(tensors[0])
    mask = torch.randn(CASE.lengths, device=subject.device, dtype=tensors[0].dtype)
    ours = _function(subject, spec, compiled=way == "compiled")
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **masked: Any) -> torch.Tensor:
        return sdpa(q, k, v, **masked)

    def derivatives(function: Callable[..., torch.Tensor], **masked: Any) -> list[torch.Tensor]:
        if way == "jvp":
            return list(torch.func.jvp(function, tensors, tuple(map(torch.ones_like, tensors))))
        if way == "func.grad":
            loss = torch.func.grad(lambda *x: (function(*x) * weights).float().sum(), argnums=(0, 1, 2))
            return list(loss(*tensors))
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        masked = {name: value.clone().requires_grad_() for name, value in masked.items()}
        if way == "checkpoint":
            out = checkpoint(function, *leaves, use_reentrant=False)
        else:
            out = function(*leaves, **masked)
        (out * weights).float().sum().backward()
        return [out, *(leaf.grad for leaf in (*leaves, *masked.values()) if leaf.grad is not None)]

    def compare(masked: dict[str, torch.Tensor]) -> list[str]:
        poison(subject.device)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The math backend has a forward derivative; the fast ones have none.
            math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
            with math:
                right = derivatives(torchs, **masked)
            got = derivatives(ours, **masked)
        if len(got) != len(right):
            return [f"{len(right) - len(got)} inputs have no gradient"]
        errors = [relative_error(one.detach(), other.detach()) for one, other in zip(got, right, strict=True)]
        return [f"relative errors {errors}"] if not max(errors) <= LARGEST_ERROR else []

    attempts: Attempts = {"q, k, v": partial(compare, {})}
    if way in ("eager", "compiled") and not spec.kernel.varlen:
        attempts["q, k, v, mask"] = partial(compare, {"attn_mask": mask})
    return attempts


exact_eager = partial(_exact, way="eager")
exact_compiled = partial(_exact, way="compiled")
exact_checkpoint = partial(_exact, way="checkpoint")
exact_grad = partial(_exact, way="func.grad")
exact_jvp = partial(_exact, way="jvp")
