"""Imports SageAttention and each of its extensions by itself, and prints in JSON what happened.

    python -I [-S] probe.py [--client-calls] [--operators] [FOLDER...]

The folders, with torch and with an unpacked wheel, come first on the path; without any, the environment's
own packages are imported. The interpreter may be another machine's, so all but `run` uses the standard
library and torch only, and the smoke test's `client_calls.py`. A front may treat kernels whose import fails
as unavailable, so each extension is imported here explicitly.

`--operators` calls each operator. Without a GPU no kernel can run. What can run is the operator's fake
implementation, and its own host code until it refuses tensors that are on the CPU: it unpacks its arguments,
looks at the tensors and raises, all through torch's stable ABI.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGE = "sageattention"
_SECONDS = 900  # torch and a wheel, from cold disks

BATCH, HEADS, TOKENS, HEAD_DIM = 1, 2, 128, 128
# Values of arguments by their names in the schemas; 1 for others.
VALUES: dict[str, float] = {"is_causal": 0, "qk_quant_gran": 2, "num_tokens": TOKENS}
VALUES |= {"block_size": 64, "warp_block_size": 32, "granularity": 3, "v_mode": 2}
VALUES |= {"q_block": 64, "q_rows": 16, "k_rows": 128}
VALUES |= {"sm_scale": 0.125, "scale_max": 448.0, "v_limit": 448.0}


def run(
    command: Sequence[str | Path], folders: Sequence[Path] = (), *, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Run this file with another Python (`command`), and return what `inspect` found there.

    Of an interpreter that died, `problems` alone is known.
    """
    from builder.util import process  # noqa: PLC0415 - this file also runs where there is no builder

    # Isolated, so that no PYTHONPATH, and with folders no other package, stands in for what they have.
    isolated = ["-I", "-S"] if folders else ["-I"]
    try:
        done = process.run(
            [*command, *isolated, Path(__file__).resolve(), *options, *folders],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # the same result where there is a GPU
            timeout_seconds=_SECONDS,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.output.strip().rpartition("\n")[2])
    except process.CommandError as error:
        return {"problems": [error.message]}
    except json.JSONDecodeError:
        lines = " | ".join(done.lines[-3:]) or "it printed nothing"
        return {"problems": [f"the interpreter ended with {done.ending}: {lines}"]}
    if done.status != 0:
        found["problems"].append(f"the interpreter ended with {done.ending} afterwards")
    return found


def inspect(*, client_calls: bool, call_operators: bool) -> dict[str, Any]:
    """Import everything and, if asked to, try what clients call, and each operator; return what happened."""
    distribution = importlib.metadata.distribution(PACKAGE)
    problems: list[str] = []
    found: dict[str, Any] = {"python": platform.python_version(), "version": distribution.version}
    found |= {"torch": "", "cuda": "", "triton": "", "extensions": {}, "operators": {}, "problems": problems}
    with suppress(importlib.metadata.PackageNotFoundError):
        found["triton"] = importlib.metadata.version("triton")
    torch = _import("torch", problems)
    if torch is None:
        return found
    found |= {"torch": str(torch.__version__), "cuda": torch.version.cuda or ""}
    module = _import(PACKAGE, problems)
    if module is not None and not any(name.startswith("sageattn") for name in vars(module)):
        problems.append(f"{PACKAGE} has no function sageattn*")
    modules = extension_modules([str(file) for file in distribution.files or ()])
    if not modules:
        problems.append(f"{PACKAGE} has no extension")
    for name, has_library in modules.items():
        # A wheel for some architectures has no library for the other kernels, and its module raises.
        loaded = _import(f"{PACKAGE}.{name}", problems, missing_is_fine=not has_library)
        found["extensions"][name] = loaded is not None
    if client_calls and module is not None:
        libraries = [name for name, has_library in modules.items() if has_library]
        path = Path(__file__).parents[1] / "smoketest" / "attention" / "client_calls.py"
        problems += runpy.run_path(str(path))["problems"](libraries)
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith(PACKAGE):
            found["operators"][f"{schema.name}.{schema.overload_name}".rstrip(".")] = str(schema)
    if call_operators and not problems:
        problems += _call_operators(torch, sorted(found["operators"]))
    return found


def extension_modules(files: Sequence[str]) -> dict[str, bool]:
    """Return the extensions' modules among RECORD's files, and whether each has a library."""
    modules: dict[str, bool] = {}
    for path in map(Path, files):
        name = path.name.split(".")[0]
        if name.startswith(("_qattn_", "_fused")) and path.parent in (Path(PACKAGE), Path(PACKAGE, "lib")):
            modules[name] = modules.get(name, False) or path.suffix == ".so"
    return dict(sorted(modules.items()))


def _import(name: str, problems: list[str], *, missing_is_fine: bool = False) -> Any:
    try:
        return importlib.import_module(name)
    except BaseException as error:  # any exception is what this looks for
        if not (missing_is_fine and isinstance(error, ImportError)):
            problems.append(f"import {name}: {_in_one_line(error)}")
        return None


def _in_one_line(error: BaseException) -> str:
    """Return an error and what caused it: torch only says which library can't be loaded, the loader why."""
    text = traceback.format_exception_only(type(error), error)[-1].strip().partition("\n")[0]
    return f"{text}: {_in_one_line(error.__cause__)}" if error.__cause__ else text


def _call_operators(torch: Any, names: Sequence[str]) -> list[str]:
    problems = [] if names else ["no operator is registered"]
    for name in names:
        namespace, rest = name.split("::")
        packet, _, overload = rest.partition(".")
        operator = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"):
            problems.append(f"{name}: no code for CUDA is registered")
        for what, call in (("its fake implementation", _call_fake), ("its host code", _call_host)):
            try:
                call(torch, operator)
            except BaseException as error:  # whatever is raised is what is looked for
                problems.append(f"{name}: {what}: {_in_one_line(error)}")
    return problems


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
    answers = answer if isinstance(answer, tuple) else (answer,) if operator._schema.returns else ()
    elsewhere = {str(one.device) for one in answers if one.device.type != "cuda"}
    assert not elsewhere, f"returns a tensor on {elsewhere}"


def _call_host(torch: Any, operator: Any) -> None:
    """Call the CUDA code with tensors on the CPU, past the dispatcher; it must raise an exception."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    try:
        operator.redispatch(keys, *_arguments(torch, operator, "cpu"))
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        return
    raise AssertionError("takes tensors on the CPU without an exception")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--client-calls", action="store_true")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("folders", nargs="*")
    arguments = parser.parse_args()
    sys.path[:0] = arguments.folders
    answer = inspect(client_calls=arguments.client_calls, call_operators=arguments.operators)
    print(json.dumps(answer), flush=True)
