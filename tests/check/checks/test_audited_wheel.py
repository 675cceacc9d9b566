"""Reading a wheel for its audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_up_audits import EXTENSIONS, found, raw_wheel
from made_up_libraries import fatbin

from builder.check.audit import audit_wheel


def test_an_extension_that_is_garbage(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, files={"sageattention/lib/_more.so": b"\x7fELF" + b"garbage" * 30})
    assert any("record: sageattention/lib/_more.so: not" in text for text in found(audit_wheel(wheel)))
    broken = replace(EXTENSIONS["_fused"], fatbin=fatbin("80")[:-20])
    errors = found(audit_wheel(raw_wheel(tmp_path, extensions={**EXTENSIONS, "_fused": broken})))
    assert any("_fused.so: offset 0x0: the container is longer" in text for text in errors)
