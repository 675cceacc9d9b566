"""The report as text."""

from __future__ import annotations

from made_up_rows import make_report, make_row

from builder.smoketest.report import table
from builder.smoketest.report.outcome import Status


def test_a_line_names_status_kernel_case_figures_and_reason() -> None:
    line = table.line(
        make_row(Status.FAIL, reason="too far off", figures={"relative_error": 0.5, "cosine": 0.9})
    )
    assert line.startswith("FAIL")
    for part in ("accuracy", "sageattn", "2048x2048", "err 0.5000", "cos 0.900000", "too far off"):
        assert part in line


def test_columns_are_aligned() -> None:
    lines = [
        table.line(make_row(case="a", reason="R")),
        table.line(make_row(kernel="varlen", case="bb", reason="R")),
    ]
    assert lines[0].index("R") == lines[1].index("R")


def test_the_summary_ends_with_the_outcome_and_repeats_what_did_not_pass() -> None:
    text = table.summary(make_report([make_row(), make_row(Status.FAIL, case="bad", reason="why")]))
    assert "1 rows did not pass" in text
    assert "why" in text
    assert text.splitlines()[-1].endswith("FAILED (1 pass, 1 FAIL)")
