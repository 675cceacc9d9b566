"""The matrix of torch and Python for a wheel: its cells, whether they agree, the table and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from builder.util.digest import file_sha256

NOTHING_TESTED = 40


class CellStatus(str, Enum):
    """The result of one cell."""

    OK = "ok"
    FAILED = "FAILED"
    NO_TORCH = "no such torch"
    NO_PYTHON = "no such Python"
    NOT_CLAIMED = "not claimed"
    NOT_TESTED = "not tested"


@dataclass
class Cell:
    """One Python and one torch, and the wheel's result with them.

    Attributes:
        torch: As it was asked for: `2.12.1`, or `2.12` for the newest of them.
        python: Minor version: `3.12`.
        reason: Why it is not ok: one line; empty where it is.
        installed: The torch that was installed, with its local version; empty before.
        cuda: The CUDA version that this torch is built for.
        seconds: How long installing and loading the wheel took.
        cudart: Where the CUDA runtime libraries of the process lie: one, or two for a PEP 600 wheel, which
            brings its own.
        operators: Schemas by operator.
    """

    torch: str
    python: str
    status: CellStatus = CellStatus.NOT_TESTED
    reason: str = ""
    installed: str = ""
    python_version: str = ""
    cuda: str = ""
    seconds: float = 0.0
    cudart: list[str] = field(default_factory=list)
    operators: dict[str, str] = field(default_factory=dict)


def agree(cells: Sequence[Cell]) -> None:
    """Compare each cell's schemas with those of the first that is ok; one that differs has failed."""
    reference = _reference(cells)
    for cell in cells:
        if reference is None or cell.status is not CellStatus.OK:
            continue
        different = difference(reference.operators, cell.operators)
        if different:
            cell.status = CellStatus.FAILED
            cell.reason = f"{different} (torch {reference.torch}, Python {reference.python})"


def _reference(cells: Iterable[Cell]) -> Cell | None:
    return next((cell for cell in cells if cell.status is CellStatus.OK), None)


def difference(reference: Mapping[str, str], operators: Mapping[str, str]) -> str:
    """Return what is different between two environments' operators, in one line; empty where nothing is."""
    if missing := sorted(set(reference) - set(operators)):
        return f"{missing[0]} is missing here, and was there"
    if added := sorted(set(operators) - set(reference)):
        return f"{added[0]} is here, and was not there"
    if changed := sorted(name for name in reference if reference[name] != operators[name]):
        return f"{operators[changed[0]]} here, {reference[changed[0]]} there"
    return ""


def table(cells: Sequence[Cell]) -> list[str]:
    """Return the table: rows of torch, columns of Python, then the notes by number and the counts."""
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
    numbers = {reason: number for number, reason in enumerate(reasons, start=1)}
    pythons = list(dict.fromkeys(cell.python for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        note = f" [{numbers[cell.reason]}]" if cell.reason in numbers else ""
        rows.setdefault(cell.torch, {})[cell.python] = f"{cell.status.value}{note}"
    header = ["torch", *(f"Python {python}" for python in pythons)]
    lines = [header, *([torch, *(row.get(python, "") for python in pythons)] for torch, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    counts = Counter(cell.status for cell in cells)
    return [
        *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
        *(f"[{number}] {reason}" for reason, number in numbers.items()),
        ", ".join(f"{counts[status]} {status.value}" for status in CellStatus if counts[status]),
    ]


def worst(cells: Iterable[Cell]) -> int:
    """Return the exit code: 1 for a failure, 40 where something was not tested or nothing was ok, else 0."""
    statuses = {cell.status for cell in cells}
    if CellStatus.FAILED in statuses:
        return 1
    return NOTHING_TESTED if CellStatus.NOT_TESTED in statuses or CellStatus.OK not in statuses else 0


def as_json(wheel: Path, cells: Sequence[Cell], absent: Sequence[str]) -> dict[str, Any]:
    """Return a wheel's findings as JSON values; `absent` are the Pythons that are missing."""
    reference = _reference(cells)
    values = [{**asdict(cell), "status": cell.status.value} for cell in cells]
    for cell, value in zip(cells, values, strict=True):
        if cell.status is CellStatus.OK:
            value["operators"] = len(cell.operators)
    return {
        "wheel": wheel.name,
        "sha256": file_sha256(wheel),
        "schemas": reference.operators if reference else {},
        "schemas_of": f"torch {reference.torch}, Python {reference.python}" if reference else "",
        "pythons_not_here": list(absent),
        "counts": {status.value: sum(cell.status is status for cell in cells) for status in CellStatus},
        "cells": values,
    }
