"""Imports SageAttention and each of its extensions by itself, and prints in JSON what happened.

The Python of a clean environment runs this file, so it uses the standard library only, and of this project
the smoke test's `client_calls.py`, but for `check`, which is for the caller. Upstream's `core.py` swallows the
errors of its extensions' imports and treats their kernels as unavailable, so each extension is imported here
explicitly.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = "sageattention"
CONTRACT = "--contract"
NO_DRIVER = "libcuda.so.1: cannot open shared object file"
# Runs a file with the packages of a folder that is not of the interpreter's environment.
_IN_SITE = (
    "import runpy, sys; site, *sys.argv = sys.argv[1:]; sys.path.insert(0, site); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
# Libraries whose second copy in a process matters.
_WATCHED = ("libtorch", "libc10", "libcudart", "libcuda.so")


def extension_modules(files: list[str]) -> dict[str, bool]:
    """Return the extensions' modules, sorted, and whether each has a shared library: `{"_fused": True}`.

    Args:
        files: Names of the distribution's files, as RECORD has them.
    """
    parts = [(*file.rpartition("/")[::2], file.endswith(".so")) for file in files]
    libraries = {
        name.split(".")[0] for folder, name, so in parts if so and folder in (PACKAGE, f"{PACKAGE}/lib")
    }
    modules = {
        name.split(".")[0] for folder, name, so in parts if folder == PACKAGE and (so or name.endswith(".py"))
    }
    return {name: name in libraries for name in sorted(modules) if name.startswith(("_qattn_", "_fused"))}


def inspect(*, contract: bool = False) -> dict[str, Any]:
    """Import everything, and return what happened; an error of an import is a finding and is not raised.

    Args:
        contract: See too that every name and call of the smoke test's `client_calls.json` is there.
    """
    distribution = importlib.metadata.distribution(PACKAGE)
    files = [str(file) for file in distribution.files or ()]
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "version": distribution.version,
        "extensions": {},
        "operators": {},
        "problems": [],
    }
    torch = _import("torch", result)
    if torch is None:
        return result
    result["torch"] = {"version": str(torch.__version__), "cuda": torch.version.cuda}
    before = _operators(torch)
    module = _import(PACKAGE, result)
    result["functions"] = (
        sorted(name for name in vars(module) if name.startswith("sageattn")) if module else []
    )
    if module is not None and not result["functions"]:
        result["problems"].append(f"{PACKAGE} has no function sageattn*")
    modules = extension_modules(files)
    if not modules:
        result["problems"].append(f"{PACKAGE} has no extension")
    for name, has_library in modules.items():
        # A wheel for some architectures has no library for the other kernels, and its module raises.
        loaded = _import(f"{PACKAGE}.{name}", result, expected=not has_library)
        result["extensions"][name] = {
            "library": has_library,
            "loaded": loaded is not None,
            "functions": sorted(_functions(loaded)) if loaded is not None else [],
        }
    if contract and module is not None:
        libraries = [name for name, has_library in modules.items() if has_library]
        path = Path(__file__).parents[1] / "smoketest" / "attention" / "client_calls.py"
        result["problems"] += runpy.run_path(str(path))["problems"](libraries)
    result["operators"] = {
        name: schema for name, schema in sorted(_operators(torch).items()) if name not in before
    }
    result["libraries"] = _mapped_libraries()
    return result


def _import(name: str, result: dict[str, Any], *, expected: bool = False) -> Any:
    try:
        return importlib.import_module(name)
    except BaseException as error:  # any exception is what this looks for
        if not (expected and isinstance(error, ImportError)):
            said = traceback.format_exception_only(type(error), error)[-1].strip()
            result["problems"].append(f"import {name}: {said}")
        return None


def _functions(module: Any) -> list[str]:
    """Return the public functions and operators of a module, without what it imports from its package."""
    package = module.__name__.rpartition(".")[0]
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not isinstance(value, type)
        and not str(getattr(value, "__module__", "")).startswith(f"{package}._library")
    ]


def _operators(torch: Any) -> dict[str, str]:
    schemas = {}
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name}.{schema.overload_name}".rstrip(".")
        schemas[name] = str(schema)
    return schemas


def _mapped_libraries() -> list[str]:
    """Return the paths of the watched libraries in this process (proc(5), /proc/PID/maps)."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    paths = {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6}
    return sorted(path for path in paths if Path(path).name.startswith(_WATCHED))


def check(
    python: Path,
    tolerate: Sequence[str] = (),
    *,
    contract: bool = False,
    emulator: Sequence[str] = (),
    site: Path | None = None,
) -> list[str]:
    """Run this file with another Python, and return what it found as lines to print.

    Args:
        python: The interpreter of an environment with torch and the wheel.
        tolerate: Problems whose text has one of these are printed and are not errors: `NO_DRIVER` for the
            unpatched release, whose Hopper extension can't be imported on a machine without a driver.
        contract: See too that clients find every name and can make every call of the smoke test's contract.
        emulator: What runs the interpreter, if this machine can't.
        site: Where torch and the wheel are, if not in that environment.

    Raises:
        AuditError: Something can't be imported, or the interpreter died over it.
    """
    # This file also runs where there is no builder.
    from builder.util.errors import AuditError  # noqa: PLC0415
    from builder.util.limits import IMPORT_SECONDS  # noqa: PLC0415
    from builder.util.process import CommandError, run  # noqa: PLC0415

    # Isolated, so that neither this file's folder nor a PYTHONPATH stands in for what is installed.
    command: list[str | Path] = [*emulator, python, "-I"]
    command += ["-c", _IN_SITE, site] if site else []
    command += [Path(__file__).resolve(), *([CONTRACT] if contract else [])]
    try:
        done = run(command, timeout_seconds=IMPORT_SECONDS, check=False)
    except CommandError as error:
        raise AuditError(f"import {PACKAGE}: {error.message}") from None
    try:
        result = json.loads(done.output.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        ended = f"Importing {PACKAGE} ended the interpreter ({done.ending}):{done.last_lines()}"
        raise AuditError(ended) from None
    problems = [text for text in result["problems"] if not any(part in text for part in tolerate)]
    if problems:
        raise AuditError(f"{PACKAGE} can't be used:\n    " + "\n    ".join(problems))
    return lines(result)


def lines(result: dict[str, Any]) -> list[str]:
    """Return what `inspect` found as lines to print."""
    torch = result["torch"]
    where = f"Python {result['python']}, torch {torch['version']} (CUDA {torch['cuda']})"
    found = [f"{where}: {result['version']} imported, {len(result['operators'])} operators"]
    for name, extension in result["extensions"].items():
        if extension["loaded"]:
            found.append(f"{name}: loaded, {len(extension['functions'])} functions")
        elif extension["library"]:
            found.append(f"{name}: not loaded")
        else:
            found.append(f"{name}: not in this wheel")
    return found + [f"tolerated: {problem}" for problem in result["problems"]]


if __name__ == "__main__":
    answer = inspect(contract=CONTRACT in sys.argv[1:])
    print(json.dumps(answer), flush=True)
    sys.exit(1 if answer["problems"] else 0)
