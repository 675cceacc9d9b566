"""The report as a picture."""

from __future__ import annotations

import math
from html.parser import HTMLParser

from made_up_rows import IMPORTED, make_report, make_row

from builder.smoketest.report import picture
from builder.smoketest.report.outcome import ExitCode, Report, Row, Status

SPEED = {"sdpa_tflops": 600.0, "peak_tflops": 2000.0}


def speed(kernel: str, tokens: int, tflops: float, status: Status = Status.PASS) -> Row:
    figures = {**SPEED, "tflops": tflops}
    parameters = {"tokens": tokens, "family": "fp8"}
    return make_row(status, "speed", kernel, f"{tokens} tokens", figures=figures, parameters=parameters)


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
        make_row(figures={"relative_error": 0.03}, limits={"relative_error": "<= 0.05"}),
        make_row(Status.FAIL, case="nan", figures={"relative_error": math.nan}, reason="17 elements are NaN"),
    ]
    parsed = parse(picture.page(make_report(rows)))
    assert parsed.seen.count("svg") == 2
    assert parsed.classes.count("cross") == 1
    assert parsed.classes.count("dot") == 1
    for text in ("1,024 tokens", "9,999 !", "sdpa 600", "17 elements are NaN", "2 rows did not pass"):
        assert text in parsed.text


def test_the_picture_needs_nothing_from_outside_and_has_both_schemes() -> None:
    page = picture.page(make_report([make_row()]))
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page


def test_the_picture_escapes_what_it_shows() -> None:
    page = picture.page(make_report([make_row(Status.FAIL, reason="<script>alert(1)</script>")]))
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
    assert 'class="outcome good"' in picture.page(make_report([make_row()], ExitCode.PASS))
