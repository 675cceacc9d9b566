"""diffusers' backends, with a stand-in for diffusers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from builder.smoketest import plan
from builder.smoketest.attention.subject import Subject
from builder.smoketest.report.outcome import Result, Status
from builder.smoketest.rows import diffusion

CHECKS = {check.case: check for check in plan.plan(plan.Options(groups=("clients",)), (9, 0))}
DIFFUSERS = """
import enum, types, torch
class AttentionBackendName(enum.Enum):
    NATIVE, SAGE, HUB, NEW = "native", "sage", "sage_hub", "sage_new"
class WanTransformer3DModel:
    def __init__(self, **configuration):
        self.off = {"native": 0, "sage": 0.01, "sage_new": 0.51}
    def to(self, *arguments): return self
    def eval(self): return self
    def set_attention_backend(self, name):
        self.backend = AttentionBackendName(name).value
    def __call__(self, hidden_states, **rest):
        return (hidden_states * (1 + self.off[self.backend]),)
"""


@pytest.fixture
def _diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("diffusers", "diffusers/models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "diffusers" / "__init__.py").write_text(DIFFUSERS)
    text = "from diffusers import AttentionBackendName\n"
    (tmp_path / "diffusers" / "models" / "attention_dispatch.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)


def run(standin: Subject, case: str) -> Result:
    check = CHECKS[case]
    result = getattr(diffusion, check.run.partition(".")[2])(standin, check)
    assert isinstance(result, Result)
    return result


def test_without_diffusers_no_row_is_applicable(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    cases = [case for case, check in CHECKS.items() if check.group == "clients"]
    assert {run(standin, case).status for case in cases} == {Status.NOT_APPLICABLE}


@pytest.mark.usefixtures("_diffusers")
def test_a_near_result_passes(standin: Subject) -> None:
    result = run(standin, "sage")
    assert result.reason == ""
    assert 0.005 < result.figures["relative_error"] < 0.015


@pytest.mark.usefixtures("_diffusers")
def test_backends_that_are_new_are_tried_too(standin: Subject) -> None:
    result = run(standin, "other backends")
    assert result.reason.startswith("sage_new: relative error 0.5")
    assert result.figures == {"more": 1.0, "gone": 5.0}


@pytest.mark.usefixtures("_diffusers")
def test_a_kernel_of_another_gpu_is_not_applicable(standin: Subject) -> None:
    ada = Subject(standin.module, "cpu", (8, 9))
    assert run(ada, "_sage_qk_int8_pv_fp8_cuda_sm90").status is Status.NOT_APPLICABLE
