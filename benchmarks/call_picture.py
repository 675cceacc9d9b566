"""Draws speed against length as SVG, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from builder.smoketest.attention.peak import attention_operations

WIDTH, HEIGHT = 720, 360
LABEL_WIDTH, LABEL_HEIGHT = 45, 14
LEFT, RIGHT, TOP, BOTTOM = 56, 90, 44, 40
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; } .soft { fill: #59636e; } .grid { stroke: #d1d9e0; }
polyline { fill: none; stroke: currentColor; stroke-width: 2.5; } polyline.sdpa { stroke-dasharray: 5 4; }
circle, text.end { fill: currentColor; }
.ours { color: #2f6fd0; } .other { color: #b8620b; } .sdpa { color: #59636e; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .soft { fill: #9da7b3; } .grid { stroke: #3d444d; }
.ours { color: #6cabff; } .other { color: #f0a352; } .sdpa { color: #9da7b3; } }
"""


def picture(lines: Mapping[str, Mapping[int, tuple[int, float]]], head_dim: int, conditions: str) -> str:
    """Return TFLOP/s against tokens, a line for each contender.

    Args:
        lines: By contender (`ours`, `other`, `sdpa`) and tokens: heads, and a call's time in seconds.
        head_dim: Of all.
        conditions: GPU, versions and type, in words.
    """
    rates = {
        name: {
            tokens: attention_operations(1, heads, tokens, tokens, head_dim) / seconds / 1e12
            for tokens, (heads, seconds) in sorted(points.items())
        }
        for name, points in lines.items()
        if points
    }
    lengths = sorted({tokens for points in rates.values() for tokens in points})
    title = f"TFLOP/s of one call against tokens, head dimension {head_dim} ({conditions})"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" {size}>',
        f"<style>{STYLE}</style>",
        f'<text class="soft" x="{LEFT}" y="20">{escape(title)}</text>',
    ]
    if not lengths:
        return "\n".join([*parts, "</svg>", ""])
    highest = max(rate for points in rates.values() for rate in points.values())
    step: float = 10.0 ** math.floor(math.log10(highest))
    step = step if highest / step >= 4 else step / 2 if highest / step >= 2 else step / 5
    top = math.ceil(highest / step) * step
    span = math.log2(lengths[-1] / lengths[0]) or 1.0

    def x(tokens: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(tokens / lengths[0]) / span

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / top

    for number in range(round(top / step) + 1):
        at = y(number * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="soft" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number * step:g}</text>'
        )
    free = 0.0
    for tokens in lengths:
        if x(tokens) < free:
            continue  # its label would stand in the one before
        free = x(tokens) + LABEL_WIDTH
        middle = f'x="{x(tokens):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle"'
        parts.append(f'<text class="soft" {middle}>{tokens:,}</text>')
    free = 0.0
    highest_first = sorted(rates.items(), key=lambda item: -item[1][max(item[1])])
    for name, points in highest_first:
        places = [(x(tokens), y(rate)) for tokens, rate in points.items()]
        drawn = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        parts.append(f'<polyline class="{name}" points="{drawn}"/>')
        for (across, down), (tokens, rate) in zip(places, points.items(), strict=True):
            told = f"<title>{escape(name)}: {rate:,.0f} TFLOP/s at {tokens:,} tokens</title>"
            parts.append(f'<circle class="{name}" cx="{across:.1f}" cy="{down:.1f}" r="3.5">{told}</circle>')
        across, down = places[-1]
        down = free = max(down, free + LABEL_HEIGHT)
        parts.append(
            f'<text class="{name} end" x="{across + 8:.1f}" y="{down + 4:.1f}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
