"""placeholder"""

from __future__ import annotations

from builder.smoketest.outcome import Report


def page(report: Report) -> str:
    """placeholder"""
    return "<!doctype html>"
