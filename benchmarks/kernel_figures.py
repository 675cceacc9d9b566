"""Turns two copies' times and results into ratios, verdicts and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.kernel_rows import Row

LIMIT = 1.02
SLOWER, UNCLEAR, OK = "SLOWER", "unclear", "ok"
IDENTICAL = "identical"


@dataclass
class Timings:
    """A row's figures: one median a round and copy, in seconds.

    Attributes:
        trouble: Why the row can't be compared; empty where it can.
        same: Whether both copies' results have the same bits.
    """

    row: Row
    trouble: str = ""
    same: bool | None = None
    seconds: dict[str, tuple[list[float], list[float]]] = field(
        default_factory=lambda: {what: ([], []) for what in ("gpu", "call", "host")}
    )

    def add(self, first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> None:
        """Add one round of both copies."""
        for what, (ours, theirs) in self.seconds.items():
            if first.get(what) and second.get(what):
                ours.append(statistics.median(first[what]))
                theirs.append(statistics.median(second[what]))

    def ratio(self, what: str) -> Ratio | None:
        """Return second over first."""
        return ratio(*self.seconds[what])


@dataclass(frozen=True)
class Ratio:
    """Second over first: the median over the rounds, and the lowest and highest round."""

    median: float
    lowest: float
    highest: float
    first_s: float
    second_s: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.lowest:.3f} {self.highest:.3f}]"


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Return the ratio of two copies' times, round by round; None without any."""
    if not first or len(first) != len(second):
        return None
    each = [b / a for a, b in zip(first, second, strict=True)]
    return Ratio(
        statistics.median(each),
        min(each),
        max(each),
        statistics.median(first),
        statistics.median(second),
        len(each),
    )


def verdict(found: Ratio | None, limit: float = LIMIT) -> str:
    """Return `ok`, `SLOWER` (in every round), or `unclear` (in most); empty without figures."""
    if found is None:
        return ""
    if found.median <= limit:
        return OK
    return SLOWER if found.lowest > limit and found.rounds > 1 else UNCLEAR


def trouble(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Return why two copies can't be compared at a row, from their first answers; empty if they can."""
    parts = []
    for name, reply in (("first", first), ("second", second)):
        if "error" in reply:
            parts.append(f"{name} fails: {reply['error']}")
        elif reply.get("wrong"):
            parts.append(f"{name} is wrong: {reply['wrong']}")
    return "; ".join(parts)


def equality(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, bool]:
    """Compare a row's bits.

    Returns:
        The finding, and whether it is a fault: what the first copy did right, the second does not do alike.
    """
    if "error" in first or first.get("wrong"):
        after = "the second is too" if second.get("wrong") or "error" in second else "the second is not"
        return f"not compared: {trouble(first, {})}; {after}", False
    if "error" in second:
        return trouble(first, second), True
    results = second["results"]
    if not any(one["unequal"] for one in results):
        return IDENTICAL, False
    parts = [
        f"{'result ' + str(index) + ': ' if len(results) > 1 else ''}{one['unequal']} of {one['elements']} "
        f"elements, by {one['largest']:.3g} at most"
        for index, one in enumerate(results)
        if one["unequal"]
    ]
    wrong = f"; second is wrong: {second['wrong']}" if second.get("wrong") else ""
    return f"differs: {', '.join(parts)}{wrong}", True


def speed_table(all_timings: Iterable[Timings], limit: float = LIMIT) -> list[str]:
    """Return the timings as lines of text."""
    head = f"{'kind':13}{'kernel':80}{'case':22}{'first':>11}{'second':>11}"
    lines = [f"{head}  {'gpu ratio':24}{'call ratio':24}{'bits':8}verdict"]
    for timings in all_timings:
        row = timings.row
        head = f"{row.kind:13}{row.name:80}{row.case:22}"
        gpu, call = timings.ratio("gpu"), timings.ratio("call")
        if timings.trouble or gpu is None:
            lines.append(f"{head}  not compared: {timings.trouble or 'no figures'}")
            continue
        same = {True: "same", False: "differ", None: ""}[timings.same]
        slow_call = f", call {verdict(call, limit)}" if verdict(call, limit) not in ("", OK) else ""
        lines.append(
            f"{head}{gpu.first_s * 1e6:8.1f} us{gpu.second_s * 1e6:8.1f} us  {gpu!s:24}{call or '-'!s:24}"
            f"{same:8}{verdict(gpu, limit)}{slow_call}"
        )
    return lines


def summary(all_timings: Sequence[Timings], limit: float = LIMIT) -> list[str]:
    """Return counts by kind, and the geometric mean and worst of the ratios."""
    lines = []
    for kind in dict.fromkeys(timings.row.kind for timings in all_timings):
        mine = [timings for timings in all_timings if timings.row.kind == kind]
        for what in ("gpu", "call", "host"):
            found = [one for one in (timings.ratio(what) for timings in mine if not timings.trouble) if one]
            if not found:
                continue
            counts = {
                name: sum(verdict(one, limit) == name for one in found) for name in (OK, UNCLEAR, SLOWER)
            }
            mean = statistics.geometric_mean([one.median for one in found])
            lines.append(
                f"{kind:13}{what:5} {len(found)} rows: mean ratio {mean:.4f}, "
                f"{min(one.median for one in found):.3f} to {max(one.median for one in found):.3f}; "
                + ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        untold = sum(bool(timings.trouble) for timings in mine)
        if untold:
            lines.append(f"{kind:13}      {untold} rows not compared")
    return lines
