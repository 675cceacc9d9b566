"""The results of a smoke test: a row's status, the run's exit code, the report as JSON and as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum, IntEnum
from typing import Any


class Status(str, Enum):
    """How one row ended."""

    PASS = "pass"  # noqa: S105 - a row's status, not a password
    FAIL = "FAIL"
    NOT_APPLICABLE = "n/a"
    """This GPU or this wheel can't have the row; the reason says which."""
    NOT_RUN = "not run"
    """The row should have run and did not; this is never a pass."""


class ExitCode(IntEnum):
    """Exit codes of ``python -m builder.smoketest``; each way to end without a proof has its own."""

    PASS = 0
    """Every applicable row passed (with ``--import-only``: every import)."""
    FAILURES = 1
    """A row failed, or did not run."""
    USAGE = 2
    """An option is wrong, or left no row to run."""
    NO_GPU = 20
    DRIVER_TOO_OLD = 21
    GPU_NOT_IN_WHEEL = 22
    WHEEL_FOR_ANOTHER_PYTHON = 23
    TORCH_NOT_IMPORTABLE = 24
    SAGEATTENTION_NOT_IMPORTABLE = 25
    TORCH_WITHOUT_CUDA = 26
    STAND_IN = 27
    NO_WHEEL = 28


ENDINGS = {
    ExitCode.PASS: "passed",
    ExitCode.FAILURES: "FAILED",
    ExitCode.USAGE: "nothing was tested",
    ExitCode.NO_GPU: "not tested: no GPU",
    ExitCode.DRIVER_TOO_OLD: "not tested: the driver is too old",
    ExitCode.GPU_NOT_IN_WHEEL: "not tested: the wheel has no code for this GPU",
    ExitCode.WHEEL_FOR_ANOTHER_PYTHON: "not tested: the wheel is for another Python",
    ExitCode.TORCH_NOT_IMPORTABLE: "not tested: torch can't be imported",
    ExitCode.SAGEATTENTION_NOT_IMPORTABLE: "FAILED: sageattention can't be imported",
    ExitCode.TORCH_WITHOUT_CUDA: "not tested: torch is built without CUDA",
    ExitCode.STAND_IN: "stand-in device: no wheel was tested",
    ExitCode.NO_WHEEL: "not tested: no wheel here that this machine can run",
}
"""A phrase for each exit code, for summaries."""


@dataclass(frozen=True)
class Result:
    """What the function that runs a row returns: a `Row` without its name."""

    status: Status
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)


def verdict(
    problems: list[str], figures: dict[str, float] | None = None, limits: dict[str, str] | None = None
) -> Result:
    """Return a failure that lists the problems, or a pass when there are none."""
    return Result(Status.FAIL if problems else Status.PASS, "; ".join(problems), figures or {}, limits or {})


def not_applicable(reason: str) -> Result:
    """Return the result of a row that this GPU, machine or wheel can't have."""
    return Result(Status.NOT_APPLICABLE, reason)


@dataclass(frozen=True)
class Row:
    """One test and its result.

    Attributes:
        id: Unique and stable between runs: ``group/kernel/case``.
        group: ``import``, ``first call``, or one of the groups of ``plan.py``.
        kernel: Key of the kernel (see ``kernels.py``), or the module that was imported.
        case: What is tested, in words; `parameters` has it for programs.
        reason: Why it failed, is not applicable or did not run; empty on a pass.
        figures: What was measured; the name contains the unit, times are seconds.
        limits: What the figures were compared with, as text (``">= 0.9999"``).
    """

    id: str
    group: str
    kernel: str
    case: str
    status: Status
    reason: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values; figures that JSON lacks (NaN, infinity) become text."""
        figures = {
            name: value if math.isfinite(value) else str(value) for name, value in self.figures.items()
        }
        return {**asdict(self), "status": self.status.value, "figures": figures}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        figures = {name: float(value) for name, value in values["figures"].items()}
        return cls(**{**values, "status": Status(values["status"]), "figures": figures})


def count(rows: Sequence[Row], status: Status) -> int:
    """Return how many rows ended with a status."""
    return Counter(row.status for row in rows)[status]


def judge(rows: Sequence[Row], *, import_only: bool, stand_in: bool = False) -> ExitCode:
    """Return the exit code of a run that got as far as its rows.

    A row that did not run counts as a failure; a run without any pass does not pass.
    """
    if count(rows, Status.FAIL) or count(rows, Status.NOT_RUN):
        return ExitCode.FAILURES
    passed = {row.group for row in rows if row.status is Status.PASS}
    if not passed or (passed == {"import"} and not import_only):
        return ExitCode.USAGE
    return ExitCode.STAND_IN if stand_in else ExitCode.PASS


def headline(rows: Sequence[Row], exit_code: ExitCode, *, import_only: bool) -> str:
    """Return the line that ends the table: the outcome, then the counts."""
    counts = ", ".join(f"{count(rows, status)} {status.value}" for status in Status if count(rows, status))
    ending = ENDINGS[exit_code]
    if import_only and exit_code is ExitCode.PASS:
        ending = "imports only: nothing was computed"
    return f"{ending} ({counts or 'no rows'})"


SHOWN = {
    "relative_error": ("err", "{:.4f}"),
    "cosine": ("cos", "{:.6f}"),
    "lse_rms": ("lse", "{:.4f}"),
    "tflops": ("TFLOP/s", "{:.0f}"),
    "times_sdpa": ("x sdpa", "{:.2f}"),
    "import_s": ("import s", "{:.2f}"),
    "first_call_s": ("s", "{:.2f}"),
    "differing": ("differing", "{:.0f}"),
}
"""Figures that the table has room for: label and format; all are in the JSON report."""

COLUMNS = "{:7}  {:11}  {:32}  {:46}  {}"


def table_line(row: Row) -> str:
    """Return one row of the table."""
    shown = [(row.figures[name], *label) for name, label in SHOWN.items() if name in row.figures]
    tail = [f"{label} {style.format(figure)}" for figure, label, style in shown]
    text = "  ".join([*tail, row.reason])
    return COLUMNS.format(row.status.value, row.group, row.kernel, row.case, text).rstrip()


def table_heading() -> str:
    """Return the table's column names."""
    text = COLUMNS.format("result", "group", "kernel", "case", "figures, reason")
    return f"{text}\n{'-' * len(text)}"


def to_json(rows: Sequence[Row], code: ExitCode, line: str, **more: Any) -> dict[str, Any]:
    """Return the report of a run as JSON values: what it came to, its rows, and `more`."""
    return {
        "format": 1,
        "exit_code": int(code),
        "outcome": code.name.lower().replace("_", "-"),
        "headline": line,
        **more,
        "counts": {status.value: count(rows, status) for status in Status},
        "rows": [row.to_json() for row in rows],
    }


def table_summary(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """Return what goes below the table: the counts of each group, the failures again, and what was tested."""
    lines = [""]
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        lines.append(
            f"{group:12}" + "".join(f"{count(mine, status):6} {status.value:8}" for status in Status)
        )
    bad = [row for row in rows if row.status in (Status.FAIL, Status.NOT_RUN)]
    if bad:
        lines += ["", f"{len(bad)} rows did not pass:", *(f"  {table_line(row)}" for row in bad)]
    values = environment.get
    tested = [f"sageattention {values('wheel_version') or '(no metadata)'}"]
    tested += [f"Python {values('python')}", f"torch {values('torch')}"]
    tested += [f"{values('gpu')} ({values('capability')})"] if values("gpu") else []
    tested += [f"driver {values('driver')}"] if values("driver") else []
    return "\n".join([*lines, "", ", ".join(tested)])
