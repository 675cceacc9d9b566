"""The report as one HTML file: speed and error drawn by hand in SVG, and every row that did not pass.

Needs nothing from outside the file, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from builder.smoketest.report.outcome import ExitCode, Report, Row, Status, count
from builder.smoketest.report.table import about, figures_text

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --band: #f6f8fa; --fp16: #2f6fd0; --fp8: #b8620b; --sdpa: #59636e; --bad: #cf222e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --text: #e6edf3; --soft: #9da7b3;
  --line: #3d444d; --band: #151b23; --fp16: #6cabff; --fp8: #f0a352; --sdpa: #9da7b3; --bad: #ff7b72;
  --good: #56d364; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 1080px; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.bad { color: var(--bad); }
.good { color: var(--good); }
.outcome { font-weight: 600; font-size: 1.1rem; margin-top: .8rem; white-space: pre-line; }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin: 0 .3em 0 .8em; }
.chip.fp16 { background: var(--fp16); margin-left: 0; }
.chip.fp8 { background: var(--fp8); }
.chip.bad { background: var(--bad); }
.figure, .wide { overflow-x: auto; }
svg { display: block; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); }
svg .soft { fill: var(--soft); }
svg .bad { fill: var(--bad); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .band { fill: var(--band); }
svg .fp16 { fill: var(--fp16); }
svg .fp8 { fill: var(--fp8); }
svg .sdpa { stroke: var(--sdpa); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .limit { stroke: var(--text); stroke-width: 2; }
svg .cross { stroke: var(--bad); stroke-width: 1.8; }
svg .number { paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }
svg .dot { fill-opacity: .65; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.key { white-space: nowrap; }
td.case { min-width: 15em; }
summary { cursor: pointer; margin: .5rem 0; }
"""

LABEL_WIDTH = 232
ROW_HEIGHT = 24


def page(report: Report) -> str:
    """Return the whole page."""
    rows = list(report.rows)
    good = report.exit_code is ExitCode.PASS and report.mode != "import-only"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Smoke test: {escape(str(report.environment.get('wheel_version')))}</title>",
        f"<style>{STYLE}</style></head><body>",
        "<h1>SageAttention smoke test</h1>",
        f'<p class="soft">{escape(about(report.environment))}</p>',
        f'<p class="soft">{escape(report.started)} · {escape(report.mode)} · {report.seconds:.0f} s</p>',
        f'<p class="outcome {"good" if good else "bad"}">{escape(report.headline)}</p>',
        _section("Speed", _speed_note(rows), speed_svg(rows)),
        _section("Error", ERROR_NOTE, error_svg(rows)),
        _not_passed(rows),
        _everything(rows),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _section(title: str, note: str, svg: str) -> str:
    if not svg:
        return ""
    return f'<h2>{title}</h2><p class="soft">{note}{LEGEND}</p><div class="figure">{svg}</div>'


LEGEND = (
    '<br><span class="chip fp16"></span>P and V multiplied in fp16'
    '<span class="chip fp8"></span>in fp8<span class="chip bad"></span>did not pass'
)

ERROR_NOTE = (
    "Relative error against fp32 attention, one mark for each case, on a logarithmic scale; the vertical "
    "line is the kernel's limit. A cross did not pass; at the right edge are results that are not a number, "
    "or were not computed."
)


def _speed_note(rows: list[Row]) -> str:
    peaks = {row.figures["peak_tflops"] for row in rows if "peak_tflops" in row.figures}
    bound = f" This GPU can't do more than {max(peaks):,.0f}." if peaks else ""
    return (
        "TFLOP/s with 32 heads of 128, fp16, no mask, quantisation included; the dashed line is torch's "
        f"<code>scaled_dot_product_attention</code>.{bound}"
    )


@dataclass(frozen=True)
class _Grid:
    """Where things are drawn: a row for each kernel, its label at the left."""

    keys: tuple[str, ...]
    width: int
    top: int

    @property
    def height(self) -> int:
        return self.top + ROW_HEIGHT * len(self.keys) + 26

    def y(self, key: str) -> float:
        return self.top + ROW_HEIGHT * (self.keys.index(key) + 0.5)

    def open(self, label: str) -> list[str]:
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        lines = [f'<svg role="img" aria-label="{escape(label)}" {size}>']
        for number, key in enumerate(self.keys):
            y = self.y(key)
            if number % 2 == 0:
                top = y - ROW_HEIGHT / 2
                lines.append(
                    f'<rect class="band" x="0" y="{top}" width="{self.width}" height="{ROW_HEIGHT}"/>'
                )
            lines.append(f'<text x="6" y="{y + 4}">{escape(key)}</text>')
        return lines


def speed_svg(rows: list[Row]) -> str:
    """Return bars, a row for each kernel and a column for each length; empty when nothing was timed."""
    timed = [row for row in rows if row.group == "speed" and "tflops" in row.figures]
    if not timed:
        return ""
    lengths = sorted({int(row.parameters["tokens"]) for row in timed})
    keys = tuple(dict.fromkeys(row.kernel for row in timed))
    column = (1040 - LABEL_WIDTH) // len(lengths)
    grid = _Grid(keys, LABEL_WIDTH + column * len(lengths), 30)
    room = column - 62
    possible = [row.figures["tflops"] for row in timed if row.figures["tflops"] <= row.figures["peak_tflops"]]
    highest = max([*possible, *(row.figures["sdpa_tflops"] for row in timed)])
    lines = grid.open("Speed of each kernel at each length")
    for number, length in enumerate(lengths):
        left = LABEL_WIDTH + column * number
        lines.append(f'<text class="soft" x="{left}" y="18">{length:,} tokens</text>')
        mine = [row for row in timed if row.parameters["tokens"] == length]
        sdpa = mine[0].figures["sdpa_tflops"]
        x = left + room * sdpa / highest
        bottom = grid.top + ROW_HEIGHT * len(keys)
        lines.append(
            f'<line class="sdpa" x1="{x:.1f}" x2="{x:.1f}" y1="{grid.top}" y2="{bottom}">'
            f"<title>scaled_dot_product_attention: {sdpa:,.0f} TFLOP/s</title></line>"
            f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">sdpa {sdpa:,.0f}</text>'
        )
        for row in mine:
            value = row.figures["tflops"]
            bad = row.status is not Status.PASS
            kind = "bad" if bad else _family(row)
            width = max(1.0, room * min(value / highest, 1.0))
            y = grid.y(row.kernel)
            mark = " !" if bad else ""
            lines.append(
                f'<rect class="bar {kind}" x="{left}" y="{y - 7}" width="{width:.1f}" height="14" rx="2">'
                f"<title>{escape(_told(row))}</title></rect>"
                f'<text class="number {"bad" if bad else ""}" x="{left + width + 5:.1f}" y="{y + 4}">'
                f"{value:,.0f}{mark}</text>"
            )
    return "\n".join([*lines, "</svg>"])


LOWEST, HIGHEST = 1e-4, 1e2


def error_svg(rows: list[Row]) -> str:
    """Return a strip of marks for each kernel; empty when no accuracy row ran."""
    measured = [
        row for row in rows if row.group in ("accuracy", "long") and row.status in (Status.PASS, Status.FAIL)
    ]
    if not measured:
        return ""
    keys = tuple(dict.fromkeys(row.kernel for row in measured))
    grid = _Grid(keys, 1040, 30)
    left, right = LABEL_WIDTH + 10, 1040 - 70
    edge = 1040 - 30

    def x(error: float) -> float:
        place = (math.log10(min(max(error, LOWEST), HIGHEST)) - math.log10(LOWEST)) / math.log10(
            HIGHEST / LOWEST
        )
        return left + (right - left) * place

    bottom = grid.top + ROW_HEIGHT * len(keys)
    lines = grid.open("Relative error of each case of each kernel")
    for power in range(-4, 3):
        at = x(10.0**power)
        label = f"{10.0**power:g}"
        lines.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{grid.top}" y2="{bottom}"/>')
        lines.append(f'<text class="soft" x="{at:.1f}" y="18" text-anchor="middle">{label}</text>')
    lines.append(f'<text class="soft" x="{edge}" y="18" text-anchor="middle">none</text>')
    for key in keys:
        y = grid.y(key)
        mine = [row for row in measured if row.kernel == key]
        limit = next((row.limits["relative_error"] for row in mine if "relative_error" in row.limits), "")
        if limit:
            at = x(float(limit.split()[-1]))
            lines.append(
                f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{y + 8}">'
                f"<title>limit {escape(limit)}</title></line>"
            )
        for order, row in enumerate(mine):
            error = row.figures.get("relative_error", math.nan)
            place = x(error) if math.isfinite(error) else edge + (order * 7) % 25 - 12
            jitter = y + (order * 5) % 11 - 5
            told = f"<title>{escape(_told(row))}</title>"
            if row.status is Status.PASS:
                kind = f"dot {_family(row)}"
                lines.append(f'<circle class="{kind}" cx="{place:.1f}" cy="{jitter}" r="3.5">{told}</circle>')
            else:
                lines.append(_cross(place, jitter, told))
    return "\n".join([*lines, "</svg>"])


def _cross(x: float, y: float, told: str) -> str:
    return (
        f'<g class="cross">{told}<line x1="{x - 3.5:.1f}" y1="{y - 3.5}" x2="{x + 3.5:.1f}" y2="{y + 3.5}"/>'
        f'<line x1="{x - 3.5:.1f}" y1="{y + 3.5}" x2="{x + 3.5:.1f}" y2="{y - 3.5}"/></g>'
    )


def _family(row: Row) -> str:
    """The family of a row's kernel, which sets the colour."""
    return "fp8" if row.parameters.get("family") == "fp8" else "fp16"


def _told(row: Row) -> str:
    parts = [f"{row.kernel}: {row.case}", figures_text(row), row.reason]
    return " - ".join(part for part in parts if part)


def _not_passed(rows: list[Row]) -> str:
    bad = [row for row in rows if row.status in (Status.FAIL, Status.NOT_RUN)]
    if not bad:
        return ""
    return f"<h2>{len(bad)} rows did not pass</h2>{_table(bad)}"


def _everything(rows: list[Row]) -> str:
    counts = ", ".join(f"{count(rows, status)} {status.value}" for status in Status if count(rows, status))
    return f"<details><summary>All {len(rows)} rows ({counts})</summary>{_table(rows)}</details>"


def _table(rows: list[Row]) -> str:
    head = "<tr><th>Result</th><th>Group</th><th>Kernel</th><th>Case</th><th>Figures, reason</th></tr>"
    body = "".join(
        f'<tr><td class="key {_tone(row)}">{row.status.value}</td><td class="key">{escape(row.group)}</td>'
        f'<td class="key">{escape(row.kernel)}</td><td class="case">{escape(row.case)}</td>'
        f"<td>{escape('; '.join(part for part in (figures_text(row), row.reason) if part))}</td></tr>"
        for row in rows
    )
    return f'<div class="wide"><table>{head}{body}</table></div>'


def _tone(row: Row) -> str:
    if row.status is Status.PASS:
        return "good"
    return "soft" if row.status is Status.NOT_APPLICABLE else "bad"
