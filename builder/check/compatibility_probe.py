"""Looks at an installed SageAttention without a GPU: imports it, and calls what can be called.

The Python of a clean environment runs this file, so it uses the standard library, torch, and of this project
only `import_check.py` beside it, which is run in the same way.

Without a GPU no kernel can run. What can run is each operator's fake implementation, a trace of the whole
path from quantisation to attention, and the operator's own host code until it refuses tensors that are on the
CPU: it unpacks its arguments, looks at the tensors and raises, all through torch's stable ABI.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PREFIX = "sageattention"
BATCH, HEADS, TOKENS, HEAD_DIM = 1, 2, 128, 128
VALUES: dict[str, Any] = {
    "tensor_layout": 1,
    "is_causal": 0,
    "qk_quant_gran": 2,
    "return_lse": 1,
    "num_tokens": TOKENS,
    "block_size": 64,
    "warp_block_size": 32,
    "sm_scale": 0.125,
    "scale_max": 448.0,
    "granularity": 3,
    "q_block": 64,
    "q_rows": 16,
    "k_rows": 128,
    "v_mode": 2,
    "v_limit": 448.0,
}
QUERY, LOGSUMEXP, CHANNELS = (TOKENS, HEAD_DIM), (TOKENS,), (HEAD_DIM,)
RETURNED: dict[str, tuple[tuple[int, ...], ...]] = {
    "attention": (QUERY, LOGSUMEXP),
    "no_backward": (QUERY,),
    # Q and K with their scales, V transposed with its scales and means, and the logsumexp's correction.
    "prepare": (QUERY, (64,), QUERY, (4,), (HEAD_DIM, TOKENS), CHANNELS, CHANNELS, LOGSUMEXP),
}
"""Shapes of what operators return after batch and heads, for `VALUES`; the others return a logsumexp."""


def probe() -> dict[str, Any]:
    """Import everything, and call what can be called; a failure is a finding and is not raised.

    Returns:
        What `import_check.inspect` finds, and by operator: `kernels` (whether there is code for CUDA), `fake`
        and `host` (empty, or what went wrong); `trace` is the same for the whole path, or None
        where the wheel lacks a part of it.
    """
    result: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("import_check.py")))["inspect"]()
    result["operators"] = {
        name: schema for name, schema in result["operators"].items() if name.startswith(PREFIX)
    }
    result.update(kernels={}, fake={}, host={}, trace="")
    if result["problems"]:
        # torch only says that a library can't be loaded; the loader says why.
        result["problems"] = [*_loader_errors(), *result["problems"]]
    if "torch" not in result:
        return result
    torch = importlib.import_module("torch")
    for name in result["operators"]:
        operator = _overload(torch, name)
        result["kernels"][name] = bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"))
        result["fake"][name] = _said(partial(_call_fake, torch, operator))
        result["host"][name] = _said(partial(_call_host, torch, operator))
    loaded = {name for name, extension in result["extensions"].items() if extension["loaded"]}
    whole = loaded >= {"_fused", "_qattn_sm80", "_qattn_sm89"}
    result["trace"] = _said(partial(_trace, torch)) if whole else None
    return result


def _loader_errors() -> list[str]:
    """Return the dynamic loader's errors for the wheel's libraries."""
    errors = []
    for folder in map(Path, sys.path):
        for library in sorted(folder.glob(f"{PREFIX}/lib/*.so")):
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                errors.append(f"{library.name}: {error}")
    return errors


def _overload(torch: Any, name: str) -> Any:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def _said(call: Callable[[], None]) -> str:
    """Return the error's type and first line; empty where there is none."""
    try:
        call()
    except BaseException as error:  # whatever is raised is what is looked for
        return traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0]
    return ""


def _arguments(torch: Any, operator: Any, device: str) -> list[Any]:
    """Return an operator's arguments, by their names in its schema; outputs are among them."""
    fp8 = "sv_f8" in operator.name() or "scale_fuse_quant" in operator.name()
    transposed = "fuse_quant" in operator.name()
    shapes = {
        "query": (torch.int8, TOKENS, HEAD_DIM),
        "key": (torch.int8, TOKENS, HEAD_DIM),
        "value": (torch.float8_e4m3fn, HEAD_DIM, TOKENS) if fp8 else (torch.float16, TOKENS, HEAD_DIM),
        "input": (torch.float16, HEAD_DIM, TOKENS) if transposed else (torch.float16, TOKENS, HEAD_DIM),
        "query_scale": (torch.float32, 4),
        "key_scale": (torch.float32, 2),
        "value_scale": (torch.float32, HEAD_DIM),
        "value_mean": (torch.float16, HEAD_DIM),
        "mean": (torch.float16, HEAD_DIM),
        "scale": (torch.float32, HEAD_DIM if transposed else 2),
    }
    given = []
    for argument in operator._schema.arguments:
        if str(argument.type) == "Tensor":
            dtype, *sizes = shapes.get(argument.name, (torch.float16, TOKENS, HEAD_DIM))
            given.append(torch.empty((BATCH, HEADS, *sizes), dtype=dtype, device=device))
        else:
            given.append(VALUES.get(argument.name, 1))
    return given


def _call_fake(torch: Any, operator: Any) -> None:
    """Call with tensors that have no data, on a CUDA device that need not exist."""
    fake_tensor = importlib.import_module("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        answer = operator(*_arguments(torch, operator, "cuda:0"))
        if not operator._schema.returns:
            assert answer is None, f"returns {answer}, and its schema says nothing"
            return
        answers = answer if isinstance(answer, tuple) else (answer,)
        shapes = [(BATCH, HEADS, *rest) for rest in RETURNED.get(_short(operator), (LOGSUMEXP,))]
        found = [tuple(one.shape) for one in answers]
        assert found == shapes, f"returns the shapes {found}, expected {shapes}"
        elsewhere = {str(one.device) for one in answers if one.device.type != "cuda"}
        assert not elsewhere, f"returns a tensor on {elsewhere}"
        last = answers[-1].dtype
        assert last == torch.float32 or _short(operator) == "no_backward", f"returns {last}"


def _short(operator: Any) -> str:
    return str(operator.name()).partition("::")[2].partition(".")[0]


def _call_host(torch: Any, operator: Any) -> None:
    """Call the CUDA code with tensors on the CPU, past the dispatcher; it must raise an exception."""
    try:
        operator.redispatch(
            torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *_arguments(torch, operator, "cpu")
        )
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        return
    raise AssertionError("takes tensors on the CPU without an exception")


def _trace(torch: Any) -> None:
    """Trace quantisation and attention without data, and find the operators in the graph."""
    make_fx = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
    quant = importlib.import_module(f"{PREFIX}.quant")
    sm80 = importlib.import_module(f"{PREFIX}._qattn_sm80")
    sm89 = importlib.import_module(f"{PREFIX}._qattn_sm89")

    def attend(q: Any, k: Any, v: Any) -> Any:
        q8, q_scale, k8, k_scale = quant.per_warp_int8(q, k, k.mean(dim=2, keepdim=True))
        v8, v_scale, _ = quant.per_channel_fp8(v, smooth_v=False)
        half, eighth = torch.empty_like(q), torch.empty_like(q)
        first = sm80.qk_int8_sv_f16_accum_f32_attn(q8, k8, v, half, q_scale, k_scale, 1, 0, 2, 0.125, 1)
        second = sm89.qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf(
            q8, k8, v8, eighth, q_scale, k_scale, v_scale, 1, 0, 2, 0.125, 1
        )
        return half + eighth, first + second

    inputs = [torch.zeros((BATCH, HEADS, TOKENS, HEAD_DIM), dtype=torch.float16) for _ in range(3)]
    graph = make_fx(attend, tracing_mode="fake")(*inputs).graph
    found = {str(node.target) for node in graph.nodes if str(node.target).startswith(PREFIX)}
    missing = {
        "quant_per_warp_int8_cuda",
        "quant_per_block_int8_fuse_sub_mean_cuda",
        "transpose_pad_permute_cuda",
        "scale_fuse_quant_cuda",
        "qk_int8_sv_f16_accum_f32_attn",
        "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf",
    } - {target.split(".")[1] for target in found}
    assert not missing, f"not in the graph: {', '.join(sorted(missing))}"


if __name__ == "__main__":
    print(json.dumps(probe()), flush=True)
