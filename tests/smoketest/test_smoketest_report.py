"""What a run comes to: exit codes, table, JSON and picture."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from typing import Any

import pytest

from builder.smoketest import picture, table
from builder.smoketest.kernels import Capability
from builder.smoketest.outcome import ENDINGS, ExitCode, Report, Row, Status, headline, judge
from builder.smoketest.peak import attention_operations, peak


def row(
    status: Status = Status.PASS,
    group: str = "accuracy",
    kernel: str = "sageattn",
    case: str = "2048x2048",
    **more: Any,
) -> Row:
    return Row(f"{group}/{kernel}/{case}", group, kernel, case, status, **more)


IMPORTED = row(group="import", kernel="torch", case="import")


def report(rows: list[Row], code: ExitCode = ExitCode.FAILURES) -> Report:
    environment = {"wheel_version": "2.2.0+<b>", "gpu": "NVIDIA H100 <80GB>", "capability": "9.0"}
    return Report("default", environment, tuple(rows), code, headline(list(rows), code, import_only=False))


def test_exit_codes_differ_and_each_has_its_words() -> None:
    assert len({code.value for code in ExitCode}) == len(list(ExitCode))
    assert set(ENDINGS) == set(ExitCode)
    assert all(code == ExitCode.PASS or "passed" not in words for code, words in ENDINGS.items())


def test_a_run_that_passes() -> None:
    assert judge([IMPORTED, row(), row(Status.NOT_APPLICABLE)], import_only=False) is ExitCode.PASS


@pytest.mark.parametrize("status", [Status.FAIL, Status.NOT_RUN])
def test_one_row_that_failed_or_did_not_run_fails_the_run(status: Status) -> None:
    assert judge([IMPORTED, row(), row(status)], import_only=False) is ExitCode.FAILURES


def test_a_run_in_which_nothing_was_computed_is_no_pass() -> None:
    rows = [IMPORTED, row(Status.NOT_APPLICABLE)]
    assert judge(rows, import_only=False) is ExitCode.USAGE
    assert judge([], import_only=True) is ExitCode.USAGE


def test_imports_alone_never_read_as_a_pass() -> None:
    code = judge([IMPORTED], import_only=True)
    assert code is ExitCode.PASS
    assert headline([IMPORTED], code, import_only=True) == "imports only: nothing was computed (1 pass)"


def test_a_stand_in_never_passes() -> None:
    assert judge([row()], import_only=False, stand_in=True) is ExitCode.STAND_IN
    assert judge([row(Status.FAIL)], import_only=False, stand_in=True) is ExitCode.FAILURES


def test_json_is_strict_and_comes_back_the_same() -> None:
    failed = row(Status.FAIL, reason="NaN", figures={"cosine": math.nan, "worst_row": math.inf, "x": 0.5})
    text = json.dumps(report([failed]).to_json(), allow_nan=False)
    back = Report.from_json(json.loads(text))
    assert math.isnan(back.rows[0].figures["cosine"])
    assert back.rows[0].figures["worst_row"] == math.inf
    assert back.rows[0].figures["x"] == 0.5
    assert back.exit_code is ExitCode.FAILURES
    assert json.loads(text)["counts"]["FAIL"] == 1


def test_a_line_names_status_kernel_case_figures_and_reason() -> None:
    line = table.line(row(Status.FAIL, reason="too far off", figures={"relative_error": 0.5, "cosine": 0.9}))
    assert line.startswith("FAIL")
    for part in ("accuracy", "sageattn", "2048x2048", "err 0.5000", "cos 0.900000", "too far off"):
        assert part in line


def test_columns_are_aligned() -> None:
    lines = [table.line(row(case="a", reason="R")), table.line(row(kernel="varlen", case="bb", reason="R"))]
    assert lines[0].index("R") == lines[1].index("R")


def test_the_summary_ends_with_the_outcome_and_repeats_what_did_not_pass() -> None:
    text = table.summary(report([row(), row(Status.FAIL, case="bad", reason="why")]))
    assert "1 rows did not pass" in text
    assert "why" in text
    assert text.splitlines()[-1].endswith("FAILED (1 pass, 1 FAIL)")


SPEED = {"sdpa_tflops": 600.0, "peak_tflops": 2000.0}


def speed(kernel: str, tokens: int, tflops: float, status: Status = Status.PASS) -> Row:
    figures = {**SPEED, "tflops": tflops}
    parameters = {"tokens": tokens, "family": "fp8"}
    return row(status, "speed", kernel, f"{tokens} tokens", figures=figures, parameters=parameters)


class Parsed(HTMLParser):
    """Checks that tags are closed in order, and keeps the text and the tags."""

    VOID = ("meta", "rect", "line", "circle", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.classes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.classes += str(dict(attrs).get("class", "")).split()
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.classes += str(dict(attrs).get("class", "")).split()

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] in self.VOID and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Parsed:
    parsed = Parsed()
    parsed.feed(page)
    return parsed


def test_the_picture_shows_speed_error_and_what_failed() -> None:
    rows = [
        speed("sageattn", 1024, 100),
        speed("sageattn", 8192, 9999, Status.FAIL),
        row(figures={"relative_error": 0.03}, limits={"relative_error": "<= 0.05"}),
        row(Status.FAIL, case="nan", figures={"relative_error": math.nan}, reason="17 elements are NaN"),
    ]
    parsed = parse(picture.page(report(rows)))
    assert parsed.seen.count("svg") == 2
    assert parsed.classes.count("cross") == 1
    assert parsed.classes.count("dot") == 1
    for text in ("1,024 tokens", "9,999 !", "sdpa 600", "17 elements are NaN", "2 rows did not pass"):
        assert text in parsed.text


def test_the_picture_needs_nothing_from_outside_and_has_both_schemes() -> None:
    page = picture.page(report([row()]))
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page


def test_the_picture_escapes_what_it_shows() -> None:
    page = picture.page(report([row(Status.FAIL, reason="<script>alert(1)</script>")]))
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;80GB&gt;" in page


def test_an_impossible_rate_does_not_shrink_the_possible_ones() -> None:
    page = picture.speed_svg([speed("a", 1024, 500), speed("b", 1024, 20000, Status.FAIL)])
    widths = [float(part.split('"')[0]) for part in page.split('height="14"')[0].split('width="')[1:]]
    assert max(widths) > 200


def test_a_picture_of_imports_alone_is_not_green() -> None:
    only = Report("import-only", {}, (IMPORTED,), ExitCode.PASS, "imports only: nothing was computed")
    assert 'class="outcome bad"' in picture.page(only)
    assert 'class="outcome good"' in picture.page(report([row()], ExitCode.PASS))


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "clock_hz", "int8_tops"),
    [
        ((8, 0), 108, 1.41e9, 624),
        ((8, 6), 82, 1.695e9, 284),
        ((8, 9), 128, 2.52e9, 660.6),
        ((9, 0), 132, 1.83e9, 1979),
        ((12, 0), 170, 2.407e9, 838),
    ],
)
def test_peaks_are_those_of_the_data_sheets(
    capability: Capability, multiprocessors: int, clock_hz: float, int8_tops: float
) -> None:
    bound = peak(capability, multiprocessors, clock_hz)
    assert bound.fp8 / 1e12 == pytest.approx(int8_tops, rel=0.01)
    assert bound.fp16 == pytest.approx(bound.fp8 * 2 / 3)


def test_an_unknown_gpu_has_a_bound_that_none_reaches_and_says_so() -> None:
    bound = peak((13, 0), 100, None)
    assert bound.fp8 > peak((9, 0), 100, 2.0e9).fp8
    assert "unknown compute capability" in bound.origin


def test_the_rate_that_skipped_work_had_was_impossible() -> None:
    seconds = attention_operations(1, 32, 8192, 8192, 128) / 2.477e15
    rate = attention_operations(1, 32, 8192, 8192, 128) / seconds
    assert rate > peak((9, 0), 132, 1.98e9).fp8
