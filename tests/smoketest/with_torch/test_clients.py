"""Calls as clients make them, diffusers, and a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.smoketest.attention import client_calls
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import Options, RowSpec, plan
from builder.smoketest.report import Result, Status
from builder.smoketest.rows import calls, diffusion

Run = Callable[[RowSpec], Result]
FAKE = Path(__file__).parents[2] / "fakes" / "fake_sageattention"
SPECS = {
    spec.id: spec for spec in plan(Options(mode="long", groups=("calls", "clients", "environment")), (9, 0))
}
# Compiled code is traced on a GPU; the fake has none of the modules.
CALLS = [
    f"calls/{call['client']}/{call['case']}"
    for call in client_calls.load()["calls"]
    if "needs" not in call
    and all(step.get("call", "").count(".") == 1 and "compiled" not in step for step in call["steps"])
]


@pytest.mark.parametrize("row", CALLS)
def test_a_package_that_takes_the_calls_passes(run: Run, row: str) -> None:
    assert run(SPECS[row]).reason == ""


@pytest.mark.parametrize("row", ["calls/ComfyUI/sageattn with attn_mask"])
def test_one_that_drops_the_mask_fails(run: Run, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    monkeypatch.setenv("FAKE_FAULT", "swallows")
    assert "relative error" in run(SPECS[row]).reason


def test_a_call_of_a_library_that_the_wheel_lacks_is_not_applicable(run: Run) -> None:
    assert run(SPECS["calls/KJNodes/operator of 9.0"]).status is Status.NOT_APPLICABLE


def test_names_that_are_missing_are_found(run: Run) -> None:
    assert "sageattention.core" in run(SPECS["calls/sageattention/names and signatures"]).reason


def test_every_value_that_a_call_names_is_known_when_it_is_used() -> None:
    known = set(calls.call_values(1, "cpu"))
    for call in client_calls.load()["calls"]:
        names = set(known)
        for step in call["steps"]:
            values: list[Any] = [*step.get("args", []), *step.get("keywords", {}).values()]
            used = {value[1:].split(".")[0] for value in values if str(value).startswith("$")}
            assert used <= names, call["case"]
            names |= {*step.get("into", []), step.get("new", "")}
        assert call.get("out", "out") in names


def test_steps_make_launch_and_call() -> None:
    values: dict[str, Any] = {"x": 3, "buffers": []}
    calls._take({"new": "t", "shape": [2, 4], "dtype": "float16"}, values, "cpu")
    assert bool(values["t"].isnan().all())
    calls._take({"call": "math.pow", "args": ["$x", "$t.stride.0"], "into": ["y"]}, values, "cpu")
    calls._take({"call": "math.modf", "args": [2.5], "into": ["part", "whole"]}, values, "cpu")
    assert (values["y"], values["part"], values["whole"]) == (81, 0.5, 2.0)


DIFFUSERS = """
import enum
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
FluxTransformer2DModel = UNet2DConditionModel = WanTransformer3DModel
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def diffusers(text: str) -> None:
        for folder in ("diffusers", "diffusers/models"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "__init__.py").touch()
        (tmp_path / "diffusers" / "__init__.py").write_text(text)
        dispatch = tmp_path / "diffusers" / "models" / "attention_dispatch.py"
        dispatch.write_text("from diffusers import AttentionBackendName\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
            monkeypatch.delitem(sys.modules, name)

    return diffusers


def test_without_diffusers_or_with_a_broken_one_no_row_is_applicable(
    subject: Subject, run: Run, install: Callable[[str], None]
) -> None:
    install("raise RuntimeError('huggingface_hub is too old')")
    rows = [spec for spec in SPECS.values() if spec.group == "clients"]
    assert rows
    for spec in rows:
        result = run(spec)
        assert result.status is Status.NOT_APPLICABLE
        assert "huggingface_hub is too old" in result.reason


def test_a_near_result_passes_and_backends_that_are_new_are_tried_too(
    subject: Subject, run: Run, install: Callable[[str], None]
) -> None:
    install(DIFFUSERS)
    result = run(SPECS["clients/diffusers/sage"])
    assert result.reason == ""
    assert 0.005 < result.figures["relative_error"] < 0.015
    result = run(SPECS["clients/diffusers/other backends"])
    assert result.reason.startswith("sage_new: relative error 0.5")
    assert result.figures == {"more": 1.0, "gone": 5.0}
    ada = Subject(subject.module, "cpu", (8, 9))
    result = diffusion.backend(ada, SPECS["clients/diffusers/_sage_qk_int8_pv_fp8_cuda_sm90"])
    assert result.status is Status.NOT_APPLICABLE


BARE = "environment/sageattn/no C compiler, no writable HOME"
LIGHT = "environment/sageattn/import and first call, without Triton"
NEEDS_A_COMPILER = """
import shutil, time
import triton
time.sleep(1.1)
def sageattn(q, k, v):
    if not shutil.which("cc"):
        raise RuntimeError("Failed to find C compiler.\\nPlease specify")
"""


@pytest.mark.parametrize(
    ("package", "bare", "light"),
    [
        ((FAKE / "sageattention" / "__init__.py").read_text(), "", ""),
        (
            NEEDS_A_COMPILER,
            "RuntimeError: Failed to find C compiler.",
            "import brings triton; import took 1.",
        ),
        ("import sys; sys.exit('out of luck')", "ended with exit code 1: out of luck", "import took nan"),
        ("sageattn = lambda q, k, v: q", "relative error", ""),
    ],
)
def test_a_fresh_process(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, bare: str, light: str
) -> None:
    (tmp_path / "sageattention.py").write_text(package)
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CC", "gcc")
    for row, reason in ((BARE, bare), (LIGHT, light)):
        result = run(SPECS[row])
        assert result.reason.startswith(reason)
        assert bool(result.reason) == bool(reason)
