"""What rows come to: exit codes, JSON and the table."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from builder.smoketest.report import (
    ENDINGS,
    ExitCode,
    Row,
    Status,
    headline,
    judge,
    table_line,
    table_summary,
    to_json,
)


def row(
    status: Status = Status.PASS,
    group: str = "accuracy",
    kernel: str = "sageattn",
    case: str = "a",
    **more: Any,
) -> Row:
    return Row(f"{group}/{kernel}/{case}", group, kernel, case, status, **more)


IMPORTED = row(group="import", kernel="torch", case="import")


def test_exit_codes_differ_and_each_has_its_words() -> None:
    assert len({code.value for code in ExitCode}) == len(list(ExitCode))
    assert set(ENDINGS) == set(ExitCode)
    assert all(code == ExitCode.PASS or "passed" not in words for code, words in ENDINGS.items())


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([IMPORTED, row(), row(Status.NOT_APPLICABLE)], ExitCode.PASS),
        ([IMPORTED, row(), row(Status.FAIL)], ExitCode.FAILURES),
        ([IMPORTED, row(), row(Status.NOT_RUN)], ExitCode.FAILURES),
        ([IMPORTED, row(Status.NOT_APPLICABLE)], ExitCode.USAGE),
        ([], ExitCode.USAGE),
    ],
)
def test_the_exit_code_of_a_run(rows: list[Row], code: ExitCode) -> None:
    assert judge(rows, import_only=False) is code


def test_neither_imports_alone_nor_a_stand_in_read_as_a_pass() -> None:
    assert judge([IMPORTED], import_only=True) is ExitCode.PASS
    line = headline([IMPORTED], ExitCode.PASS, import_only=True)
    assert line == "imports only: nothing was computed (1 pass)"
    assert judge([row()], import_only=False, stand_in=True) is ExitCode.STAND_IN
    assert judge([row(Status.FAIL)], import_only=False, stand_in=True) is ExitCode.FAILURES


def test_json_is_strict_and_comes_back_the_same() -> None:
    failed = row(Status.FAIL, reason="NaN", figures={"cosine": math.nan, "worst_row": math.inf, "x": 0.5})
    values = json.loads(json.dumps(to_json([failed], ExitCode.FAILURES, "FAILED"), allow_nan=False))
    assert (values["exit_code"], values["outcome"], values["counts"]["FAIL"]) == (1, "failures", 1)
    assert values["rows"][0]["figures"] == {"cosine": "nan", "worst_row": "inf", "x": 0.5}
    back = Row.from_json(values["rows"][0])
    assert back.status is Status.FAIL
    assert math.isnan(back.figures["cosine"])
    assert (back.figures["worst_row"], back.figures["x"]) == (math.inf, 0.5)


def test_a_line_names_status_kernel_case_figures_and_reason_in_columns() -> None:
    failed = row(Status.FAIL, reason="too far off", figures={"relative_error": 0.5, "cosine": 0.9})
    line = table_line(failed)
    assert line.split() == [
        "FAIL",
        "accuracy",
        "sageattn",
        "a",
        "err",
        "0.5000",
        "cos",
        "0.900000",
        "too",
        "far",
        "off",
    ]
    assert line.index("err") == table_line(row(kernel="varlen", case="bb", reason="err")).index("err")


def test_the_summary_repeats_what_did_not_pass() -> None:
    text = table_summary([row(), row(Status.FAIL, case="bad", reason="why")], {"wheel_version": "2.2.0"})
    assert "1 rows did not pass" in text
    assert "why" in text
    assert text.splitlines()[-1] == "sageattention 2.2.0, Python None, torch None"
