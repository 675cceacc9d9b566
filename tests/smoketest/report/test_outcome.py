"""What rows come to: exit codes and JSON."""

from __future__ import annotations

import json
import math

import pytest
from made_up_rows import IMPORTED, make_report, make_row

from builder.smoketest.report.outcome import ENDINGS, ExitCode, Row, Status, headline, judge


def test_exit_codes_differ_and_each_has_its_words() -> None:
    assert len({code.value for code in ExitCode}) == len(list(ExitCode))
    assert set(ENDINGS) == set(ExitCode)
    assert all(code == ExitCode.PASS or "passed" not in words for code, words in ENDINGS.items())


def test_a_run_that_passes() -> None:
    assert judge([IMPORTED, make_row(), make_row(Status.NOT_APPLICABLE)], import_only=False) is ExitCode.PASS


@pytest.mark.parametrize("status", [Status.FAIL, Status.NOT_RUN])
def test_one_row_that_failed_or_did_not_run_fails_the_run(status: Status) -> None:
    assert judge([IMPORTED, make_row(), make_row(status)], import_only=False) is ExitCode.FAILURES


def test_a_run_in_which_nothing_was_computed_is_no_pass() -> None:
    rows = [IMPORTED, make_row(Status.NOT_APPLICABLE)]
    assert judge(rows, import_only=False) is ExitCode.USAGE
    assert judge([], import_only=True) is ExitCode.USAGE


def test_imports_alone_never_read_as_a_pass() -> None:
    code = judge([IMPORTED], import_only=True)
    assert code is ExitCode.PASS
    assert headline([IMPORTED], code, import_only=True) == "imports only: nothing was computed (1 pass)"


def test_a_stand_in_never_passes() -> None:
    assert judge([make_row()], import_only=False, stand_in=True) is ExitCode.STAND_IN
    assert judge([make_row(Status.FAIL)], import_only=False, stand_in=True) is ExitCode.FAILURES


def test_json_is_strict_and_comes_back_the_same() -> None:
    failed = make_row(
        Status.FAIL, reason="NaN", figures={"cosine": math.nan, "worst_row": math.inf, "x": 0.5}
    )
    text = json.dumps(make_report([failed]).to_json(), allow_nan=False)
    values = json.loads(text)
    assert (values["exit_code"], values["outcome"], values["counts"]["FAIL"]) == (1, "failures", 1)
    assert values["rows"][0]["figures"] == {"cosine": "nan", "worst_row": "inf", "x": 0.5}
    back = Row.from_json(values["rows"][0])
    assert back.status is Status.FAIL
    assert math.isnan(back.figures["cosine"])
    assert (back.figures["worst_row"], back.figures["x"]) == (math.inf, 0.5)
