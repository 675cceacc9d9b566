"""What other projects import from SageAttention and how they call it: `client_calls.json`.

Standard library only: the import check runs this file with the Python of a clean environment, without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[1] / "client_calls.json"
_LIBRARY = re.compile(r"_qattn_(sm\d+)|(sm\d+)_compile")
_LAUNCH_OPTIONS = {"num_warps", "num_stages"}


def load() -> dict[str, Any]:
    """Return the names and calls of `client_calls.json`."""
    calls: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return calls


def find(path: str) -> Any:
    """Return what a dotted path leads to: a module, or a name in one.

    Raises:
        ImportError: No part of it is a module that can be imported.
        AttributeError: A name is not there.
    """
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            value = importlib.import_module(name)
        except ModuleNotFoundError as absent:
            if end > 1 and f"{name}.".startswith(f"{absent.name}."):
                continue
            raise
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(f"No module named {path!r}")


def problems(libraries: Collection[str], calls: Mapping[str, Any] | None = None) -> list[str]:
    """Return what is missing, or can't be called as clients do.

    Args:
        libraries: The extensions that the wheel has, such as `_qattn_sm90`; names of others are not expected.
        calls: What clients use; `client_calls.json` by default.
    """
    calls = calls or load()

    def expected(path: str) -> bool:
        return all(f"_qattn_{one or other}" in libraries for one, other in _LIBRARY.findall(path))

    paths = [f"{module}.{name}" for module, names in calls["names"].items() for name in names]
    wrong = [_tried(_missing, path) for path in paths if expected(path)]
    wrong += [f"{name} has no spec" for name in calls["specs"] if importlib.util.find_spec(name) is None]
    wrong += [_tried(_lacks_parameters, path, names) for path, names in calls["accepts"].items()]
    for call in calls["calls"]:
        for step in call["steps"]:
            path = step.get("call") or step.get("launch")
            if path and expected(path):
                problem = _tried(_refuses, path, step["args"], step.get("keywords", {}))
                wrong.append(problem and f"{problem} ({call['client']}: {call['case']})")
    return [*dict.fromkeys(filter(None, wrong))]


def _tried(check: Callable[..., str], path: str, *arguments: Any) -> str:
    try:
        return check(path, *arguments)
    except Exception as error:
        return f"{path}: {type(error).__name__}: {error}"


def _missing(path: str) -> str:
    find(path)
    return ""


def _lacks_parameters(path: str, names: Sequence[str]) -> str:
    function = find(path)
    known = getattr(function, "arg_names", None) or inspect.signature(function).parameters
    missing = [name for name in names if name not in known]
    return f"{path} has no parameter {', '.join(missing)}" if missing else ""


def _refuses(path: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """Return why a function does not take a call; empty if it does, or can't be asked."""
    function = find(path)
    schema = getattr(function, "_schema", None)
    if schema is not None or hasattr(function, "arg_names"):  # an operator, or a Triton kernel
        names = [argument.name for argument in schema.arguments] if schema else [*function.arg_names]
        bound = [*names[: len(positional)], *keywords]
        missing = [name for name in names if name not in bound]
        more = [name for name in keywords if name not in names and name not in _LAUNCH_OPTIONS]
        more += ["more by position"] if len(positional) > len(names) else []
        more += [name for name in bound if bound.count(name) > 1]
        wrong = [f"lacks {', '.join(missing)}"] if missing else []
        wrong += [f"has {', '.join(more)} too much"] if more else []
        return f"the call of {path} {' and '.join(wrong)}" if wrong else ""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # compiled, and tells nothing
        return ""
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        return f"{path}: {error}"
    return ""
