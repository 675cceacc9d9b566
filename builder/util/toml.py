"""Reads TOML files into dataclasses; a key that is unknown, missing or of the wrong type is named.

It needs nothing but the standard library, and `tomli` before Python 3.11: nox reads the targets with it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from builder.util.errors import BuilderError

# By name, so that the types can be checked where tomli is not installed.
tomllib: ModuleType = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_Record = TypeVar("_Record")


def load(path: Path, error: type[BuilderError]) -> dict[str, Any]:
    """Return what a TOML file holds; every problem with it is an error of the given class."""
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise error(f"{path}: can't be read: {problem}.") from None


def convert(
    kind: type[_Record], values: Mapping[str, Any], where: object, error: type[BuilderError], **others: Any
) -> _Record:
    """Return a dataclass from a table of TOML.

    Its fields may be strings, whole numbers, dataclasses, classes with a method `parse` that takes a string,
    and tuples of these; `others` are fields that are not in the table.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.name not in others}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise error(f"{where}: {key}: unknown key.", f"Known keys: {', '.join(known)}.")
    converted = {}
    for key, field in known.items():
        if key in values:
            converted[key] = _value(hints[key], values[key], f"{where}: {key}", error)
        elif field.default is MISSING:
            raise error(f"{where}: {key}: missing.", f"Known keys: {', '.join(known)}.")
    return kind(**converted, **others)


def _value(hint: Any, value: Any, where: str, error: type[BuilderError]) -> Any:
    if get_origin(hint) is tuple and isinstance(value, list):
        item = get_args(hint)[0]
        return tuple(_value(item, one, f"{where} {number}", error) for number, one in enumerate(value, 1))
    if hasattr(hint, "parse") and isinstance(value, str):
        try:
            return hint.parse(value)
        except BuilderError as problem:
            raise error(f"{where}: {problem.message}", problem.remedy) from None
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return convert(hint, value, where, error)
    if type(value) is not hint:
        raise error(f"{where}: {value!r} is not of the type {getattr(hint, '__name__', hint)}.")
    return value
