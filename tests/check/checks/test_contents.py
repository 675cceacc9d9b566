"""Files that are not what RECORD says, that name the build machine, or are too large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import EXTENSIONS, found, only_error, ours, raw_wheel, tamper

from builder.check.audit import audit_wheel
from builder.check.checks.evidence import build_paths


def test_changed_bytes(tmp_path: Path) -> None:
    wheel = tamper(ours(tmp_path), "core.py", b"import os\n")
    assert found(audit_wheel(wheel)) == [
        "record: sageattention/core.py has a different digest in RECORD",
        "sbom: sageattention/core.py has a different SHA-256 in the SBOM",
    ]


@pytest.mark.parametrize(
    "path",
    [
        str(Path("/home/runner", "work", "x", "x", "csrc", "a.cu")),
        str(Path("/root", ".cache", "sageattention-build", "include", "a.h")),
        "/tmp/build-env-x1/lib/a.h",
        "/builds/venv/lib/python3.12/site-packages/torch/include/a.h",
        "/usr/local/lib/python3.12/site-packages/torch/include/a.h",
        "/__w/project/a.cu",
        "/opt/conda/include/a.h",
    ],
)
def test_paths_of_a_build_machine(tmp_path: Path, path: str) -> None:
    assert build_paths(b"\0assertion in " + path.encode() + b"\0") == (path,)
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], data=path.encode() + b"\0"))
    assert only_error(audit_wheel(wheel)).endswith(f"contains 1 path of the machine that built it: {path}")


def test_paths_in_other_files(tmp_path: Path) -> None:
    report = audit_wheel(
        raw_wheel(tmp_path, files={"sageattention/version.py": b"where = '/home/me/build'\n"})
    )
    assert any("sageattention/version.py contains 1 path" in text for text in found(report, "warning"))


def test_sizes(tmp_path: Path) -> None:
    wheel = ours(tmp_path)
    report = audit_wheel(wheel, size_limit_bytes=1000)
    assert only_error(report).startswith("size: ")
    assert audit_wheel(wheel, size_limit_bytes=1000, house_rules=False).passed
