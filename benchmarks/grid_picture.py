"""Draws a grid of ratios as SVG: a bar a row, from 1.0 to the left where a call is slower than torch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

ROW, LABEL, WIDTH, TOP, BOTTOM = 15, 270, 760, 44, 24
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; } .soft { fill: #59636e; } line { stroke: #d1d9e0; }
.ours { fill: #2f6fd0; } .torch { fill: #9da7b3; } .slower { fill: #c03a2b; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .soft { fill: #9da7b3; } line { stroke: #3d444d; }
.ours { fill: #6cabff; } .torch { fill: #59636e; } .slower { fill: #ff7b6b; } }
"""


def picture(rows: Sequence[tuple[str, str, float]], conditions: str) -> str:
    """Return the picture.

    Args:
        rows: Of each row its label, the kernel that the call takes ("torch" for torch's function), and how
            many times as fast as torch's function it is.
        conditions: GPU, versions and type, in words.
    """
    ratios = [ratio for *_, ratio in rows] or [1.0]
    low, high = min(0.8, *ratios) * 0.97, max(1.25, *ratios) * 1.03
    scale = (WIDTH - LABEL - 60) / math.log(high / low)
    height = TOP + ROW * len(rows) + BOTTOM
    title = f"How many times as fast as torch's attention: {conditions}"

    def x(ratio: float) -> float:
        return LABEL + math.log(ratio / low) * scale

    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" {size}>',
        f"<style>{STYLE}</style>",
        f'<text class="soft" x="8" y="18">{escape(title)}</text>',
    ]
    for tick in (0.5, 0.8, 1.0, 1.25, 1.5, 2.0):
        if low <= tick <= high:
            parts.append(
                f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{height - BOTTOM}"/>'
                f'<text class="soft" x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>'
            )
    for index, (label, kernel, ratio) in enumerate(rows):
        middle = TOP + ROW * index + ROW / 2
        kind = "slower" if ratio < 0.97 else "torch" if kernel == "torch" else "ours"
        left, right = sorted((x(1.0), x(ratio)))
        parts.append(
            f'<text x="{LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{kind}" x="{left:.1f}" y="{middle - 5:.1f}" width="{max(right - left, 1.5):.1f}" '
            f'height="10"><title>{escape(kernel)}</title></rect>'
            f'<text class="soft" x="{WIDTH - 8}" y="{middle + 4:.1f}" text-anchor="end">{ratio:.2f}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
