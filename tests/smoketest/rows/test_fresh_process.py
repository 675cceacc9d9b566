"""What a fresh process reports: a compiler that is needed, modules that are brought, time that is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import SAGEATTN
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Check
from builder.smoketest.rows.fresh_process import bare, light

STANDIN = Path(__file__).parents[1] / "standin"
CHECK = Check("environment", SAGEATTN, "fresh", "fresh_process.bare")
NEEDS_A_COMPILER = """
import shutil, time
import triton
time.sleep(1.1)
def sageattn(q, k, v):
    if not shutil.which("cc"):
        raise RuntimeError("Failed to find C compiler.\\nPlease specify")
"""


def test_a_light_package_passes_both_rows(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    assert bare(standin, CHECK).reason == ""
    result = light(standin, CHECK)
    assert result.reason == ""
    assert set(result.figures) == {"import_s", "first_call_s"}


def test_one_that_needs_a_compiler_and_brings_triton_fails_both(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sageattention.py").write_text(NEEDS_A_COMPILER)
    (tmp_path / "triton.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CC", "gcc")
    assert bare(standin, CHECK).reason == "RuntimeError: Failed to find C compiler."
    reason = light(standin, CHECK).reason
    assert reason.startswith("import brings triton; import took 1.")
    assert reason.endswith("there was no first call")


def test_a_process_that_dies_is_a_failure(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sageattention.py").write_text("import sys; sys.exit('out of luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert bare(standin, CHECK).reason == "ended with exit code 1: out of luck"


def test_a_wrong_result_is_a_failure(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    monkeypatch.setenv("STANDIN_FAULT", "unwritten")
    assert bare(standin, CHECK).reason == "relative error nan > 0.05"
