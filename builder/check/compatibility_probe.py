"""Looks at an installed SageAttention without a GPU: imports it, and calls what can be called.

The Python of a clean environment runs this file, so it uses the standard library, torch, and of this project
only `import_check.py` beside it, which is run in the same way.

Without a GPU no kernel can run. What can run is each operator's fake implementation, and its own host code
until it refuses tensors that are on the CPU: it unpacks its arguments, looks at the tensors and raises, all
through torch's stable ABI.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import runpy
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

PREFIX = "sageattention"
BATCH, HEADS, TOKENS, HEAD_DIM = 1, 2, 128, 128
# Values of arguments by their names in the schemas; 1 for others.
VALUES = {"is_causal": 0, "qk_quant_gran": 2, "num_tokens": TOKENS, "block_size": 64, "warp_block_size": 32}
VALUES |= {"granularity": 3, "q_block": 64, "q_rows": 16, "k_rows": 128, "v_mode": 2}
FLOATS = {"sm_scale": 0.125, "scale_max": 448.0, "v_limit": 448.0}


def probe() -> dict[str, Any]:
    """Return what `import_check.inspect` finds, with what came of calling each operator among its problems.

    `triton` is the version of the Triton that torch brought.
    """
    result: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("import_check.py")))["inspect"]()
    operators = {name: text for name, text in result["operators"].items() if name.startswith(PREFIX)}
    result.update(operators=operators, triton="")
    with suppress(importlib.metadata.PackageNotFoundError):
        result["triton"] = importlib.metadata.version("triton")
    problems = result["problems"]
    if problems:
        # torch only says that a library can't be loaded; the loader says why.
        problems[:0] = _loader_errors()
        return result
    for name, extension in result["extensions"].items():
        if extension["library"] and not extension["loaded"]:
            problems.append(f"{name}: loaded in part only")
    torch = importlib.import_module("torch")
    for name in operators:
        namespace, rest = name.split("::")
        packet, _, overload = rest.partition(".")
        operator = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"):
            problems.append(f"{name}: no code for CUDA is registered")
        for what, call in (("its fake implementation", _call_fake), ("its host code", _call_host)):
            try:
                call(torch, operator)
            except BaseException as error:  # whatever is raised is what is looked for
                text = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0]
                problems.append(f"{name}: {what}: {text}")
    if not operators:
        problems.append("no operator is registered")
    return result


def _loader_errors() -> list[str]:
    """Return the dynamic loader's errors for the wheel's libraries."""
    errors = []
    for library in (path for folder in sys.path for path in sorted(Path(folder).glob(f"{PREFIX}/lib/*.so"))):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            errors.append(f"{library.name}: {error}")
    return errors


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
            given.append((VALUES | FLOATS).get(argument.name, 1))
    return given


def _call_fake(torch: Any, operator: Any) -> None:
    """Call with tensors that have no data, on a CUDA device that need not exist."""
    fake_tensor = importlib.import_module("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        answer = operator(*_arguments(torch, operator, "cuda:0"))
    answers = answer if isinstance(answer, tuple) else (answer,) if operator._schema.returns else ()
    elsewhere = {str(one.device) for one in answers if one.device.type != "cuda"}
    assert not elsewhere, f"returns a tensor on {elsewhere}"


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


if __name__ == "__main__":
    print(json.dumps(probe()), flush=True)
