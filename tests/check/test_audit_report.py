"""The table of an audit."""

from __future__ import annotations

from pathlib import Path

from made_up_audits import NAME, ours
from made_up_libraries import Elf

from builder.check.audit import audit_wheel
from builder.check.audit_report import table


def test_the_table(tmp_path: Path) -> None:
    good, bad = (
        audit_wheel(ours(tmp_path / "good")),
        audit_wheel(ours(tmp_path / "bad", _fused=Elf(stack="executable"))),
    )
    text = table([good, bad])
    assert f"PASS  {NAME}" in text
    assert f"FAIL  {NAME}" in text
    assert "_qattn_sm89    8.9 9.0a 12.0" in text
    assert "  error    stack          _fused.so makes the process's stack executable" in text
    assert "symbols fit" not in text
    assert "  ok       rpath" in table([good], notes=True)
