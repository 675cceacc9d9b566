"""Imports SageAttention and each of its extensions by itself, and prints in JSON what happened.

    python -I -S import_check.py [--contract] [FOLDER...]

The folders, with torch and with an unpacked wheel, come first on the path; without any, the environment's
own packages are imported, and `-S` is left out. The interpreter may be another machine's, so all but `check`
uses the standard library only, and the smoke test's `client_calls.py`. A front may treat kernels whose import
fails as unavailable, so each extension is imported here explicitly.
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
_IMPORT_SECONDS = 600  # torch and a wheel, from cold disks


def inspect(*, contract: bool = False) -> dict[str, Any]:
    """Import everything, and return what happened; with `contract`, look for all that clients call too."""
    distribution = importlib.metadata.distribution(PACKAGE)
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "version": distribution.version,
        "functions": [],
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
    if module is not None:
        result["functions"] = sorted(name for name in vars(module) if name.startswith("sageattn"))
        if not result["functions"]:
            result["problems"].append(f"{PACKAGE} has no function sageattn*")
    modules = extension_modules([str(file) for file in distribution.files or ()])
    if not modules:
        result["problems"].append(f"{PACKAGE} has no extension")
    for name, has_library in modules.items():
        # A wheel for some architectures has no library for the other kernels, and its module raises.
        loaded = _import(f"{PACKAGE}.{name}", result, expected=not has_library)
        result["extensions"][name] = {"library": has_library, "loaded": loaded is not None}
    if contract and module is not None:
        libraries = [name for name, has_library in modules.items() if has_library]
        path = Path(__file__).parents[1] / "smoketest" / "attention" / "client_calls.py"
        result["problems"] += runpy.run_path(str(path))["problems"](libraries)
    operators = sorted(_operators(torch).items())
    result["operators"] = {name: schema for name, schema in operators if name not in before}
    return result


def extension_modules(files: Sequence[str]) -> dict[str, bool]:
    """Return the extensions' modules among RECORD's files, and whether each has a library."""
    names = {Path(file).name.split(".")[0] for file in files if Path(file).parent == Path(PACKAGE)}
    libraries = {
        path.name.split(".")[0]
        for path in map(Path, files)
        if path.suffix == ".so" and path.parent in (Path(PACKAGE), Path(PACKAGE, "lib"))
    }
    return {name: name in libraries for name in sorted(names) if name.startswith(("_qattn_", "_fused"))}


def _import(name: str, result: dict[str, Any], *, expected: bool = False) -> Any:
    try:
        return importlib.import_module(name)
    except BaseException as error:  # any exception is what this looks for
        if not (expected and isinstance(error, ImportError)):
            message = traceback.format_exception_only(type(error), error)[-1].strip()
            result["problems"].append(f"import {name}: {message}")
        return None


def _operators(torch: Any) -> dict[str, str]:
    schemas = torch._C._jit_get_all_schemas()
    return {f"{schema.name}.{schema.overload_name}".rstrip("."): str(schema) for schema in schemas}


def check(
    command: Sequence[str | Path], folders: Sequence[Path] = (), *, contract: bool = False
) -> list[str]:
    """Run this file with another Python (`command`), and return what it says as lines to print.

    Raises:
        AuditError: Something can't be imported, or the interpreter died over it.
    """
    # This file also runs where there is no builder.
    from builder.util.errors import AuditError  # noqa: PLC0415
    from builder.util.process import CommandError, run  # noqa: PLC0415

    # Isolated, so that no PYTHONPATH, and with folders no other package, stands in for what they have.
    arguments: list[str | Path] = ["-I", *(["-S"] if folders else []), Path(__file__).resolve()]
    arguments += [*([CONTRACT] if contract else []), *folders]
    try:
        done = run([*command, *arguments], timeout_seconds=_IMPORT_SECONDS, check=False)
        result = json.loads(done.output.strip().rpartition("\n")[2])
    except CommandError as error:
        raise AuditError(f"import {PACKAGE}: {error.message}") from None
    except json.JSONDecodeError:
        ended = f"Importing {PACKAGE} ended the interpreter ({done.ending}):{done.last_lines()}"
        raise AuditError(ended) from None
    if result["problems"]:
        raise AuditError(f"{PACKAGE} can't be used:\n    " + "\n    ".join(result["problems"]))
    torch = result["torch"]
    where = f"Python {result['python']}, torch {torch['version']} (CUDA {torch['cuda']})"
    lines = [f"{where}: {result['version']} imported, {len(result['operators'])} operators"]
    for name, extension in result["extensions"].items():
        lines.append(f"{name}: {'loaded' if extension['loaded'] else 'not in this wheel'}")
    return lines


if __name__ == "__main__":
    sys.path[:0] = [argument for argument in sys.argv[1:] if argument != CONTRACT]
    answer = inspect(contract=CONTRACT in sys.argv[1:])
    print(json.dumps(answer), flush=True)
    sys.exit(1 if answer["problems"] else 0)
