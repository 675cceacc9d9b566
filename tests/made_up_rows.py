"""Rows and reports of a smoke test, for tests."""

from __future__ import annotations

from typing import Any

from builder.smoketest.report.outcome import ExitCode, Report, Row, Status, headline


def make_row(
    status: Status = Status.PASS,
    group: str = "accuracy",
    kernel: str = "sageattn",
    case: str = "2048x2048",
    **more: Any,
) -> Row:
    return Row(f"{group}/{kernel}/{case}", group, kernel, case, status, **more)


IMPORTED = make_row(group="import", kernel="torch", case="import")


def make_report(rows: list[Row], code: ExitCode = ExitCode.FAILURES) -> Report:
    environment = {"wheel_version": "2.2.0+<b>", "gpu": "NVIDIA H100 <80GB>", "capability": "9.0"}
    return Report("default", environment, tuple(rows), code, headline(list(rows), code, import_only=False))
