"""What a row's function gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from builder.smoketest.outcome import Status


@dataclass(frozen=True)
class Result:
    """A row without its name; see `builder.smoketest.outcome.Row`."""

    status: Status
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)


def verdict(problems: list[str], figures: dict[str, float], limits: dict[str, str]) -> Result:
    """A failure that lists the problems, or a pass when there are none."""
    return Result(Status.FAIL if problems else Status.PASS, "; ".join(problems), figures, limits)


def not_applicable(reason: str) -> Result:
    """A row that this GPU, machine or wheel can't have."""
    return Result(Status.NOT_APPLICABLE, reason)
