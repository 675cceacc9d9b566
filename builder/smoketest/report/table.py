"""The report as plain text."""

from __future__ import annotations

from builder.smoketest.report.outcome import Report, Row, Status

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

KERNEL_WIDTH = 32
CASE_WIDTH = 46


def line(row: Row) -> str:
    """Return one row of the table."""
    tail = "  ".join(part for part in (figures_text(row), row.reason) if part)
    columns = [f"{row.status.value:7}", f"{row.group:10}", f"{row.kernel:{KERNEL_WIDTH}}"]
    return "  ".join([*columns, f"{row.case:{CASE_WIDTH}}", tail]).rstrip()


def figures_text(row: Row) -> str:
    """Return the figures that the table shows, in one line."""
    return "  ".join(
        f"{label} {style.format(row.figures[name])}"
        for name, (label, style) in SHOWN.items()
        if name in row.figures
    )


def heading() -> str:
    """Return the table's column names."""
    text = f"{'result':7}  {'group':10}  {'kernel':{KERNEL_WIDTH}}  {'case':{CASE_WIDTH}}  figures, reason"
    return f"{text}\n{'-' * len(text)}"


def about(environment: dict[str, object]) -> str:
    """Return what was tested on what, in one line."""
    known = environment.get
    parts = [
        f"sageattention {known('wheel_version') or '(no metadata)'}",
        f"Python {known('python')}",
        f"torch {known('torch')}",
    ]
    if known("gpu"):
        parts.append(f"{known('gpu')} ({known('capability')})")
    if known("driver"):
        parts.append(f"driver {known('driver')}")
    return ", ".join(parts)


def summary(report: Report) -> str:
    """Return what goes below the table: the counts of each group, the failures again, and the outcome."""
    groups = list(dict.fromkeys(row.group for row in report.rows))
    lines = [""]
    for group in groups:
        mine = [row for row in report.rows if row.group == group]
        counts = [(status, sum(row.status is status for row in mine)) for status in Status]
        lines.append(f"{group:12}" + "".join(f"{number:6} {status.value:8}" for status, number in counts))
    bad = [row for row in report.rows if row.status in (Status.FAIL, Status.NOT_RUN)]
    if bad:
        lines += ["", f"{len(bad)} rows did not pass:"]
        lines += [f"  {line(row)}" for row in bad]
    lines += [
        "",
        about(report.environment),
        f"smoke test ({report.mode}, {report.seconds:.0f} s): {report.headline}",
    ]
    return "\n".join(lines)
