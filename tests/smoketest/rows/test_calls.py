"""Calls as clients make them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from builder.smoketest import plan
from builder.smoketest.attention import contract
from builder.smoketest.attention.subject import Subject
from builder.smoketest.report.outcome import Status
from builder.smoketest.rows import calls

STANDIN = Path(__file__).parents[1] / "standin"
CHECKS = {
    (check.kernel.key, check.case): check for check in plan.plan(plan.Options(groups=("contract",)), (9, 0))
}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STANDIN))
    for name in [name for name in sys.modules if name.split(".")[0] == "sageattention"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    "call",
    [
        ("diffusers", "sageattn with lse"),
        ("diffusers", "sageattn_varlen"),
        ("ComfyUI", "sageattn with attn_mask"),
        ("LightX2V", "sageattn_varlen"),
    ],
)
def test_a_package_that_takes_the_calls_passes(standin: Subject, call: tuple[str, str]) -> None:
    assert calls.made(standin, CHECKS[call]).reason == ""


def test_one_that_drops_the_mask_fails(standin: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "swallows")
    assert "relative error" in calls.made(standin, CHECKS["ComfyUI", "sageattn with attn_mask"]).reason


def test_a_call_of_a_library_that_the_wheel_lacks_is_not_applicable(standin: Subject) -> None:
    result = calls.made(standin, CHECKS["KJNodes", "operator of 9.0"])
    assert result.status is Status.NOT_APPLICABLE


def test_names_that_are_missing_are_found(standin: Subject) -> None:
    result = calls.names(standin, CHECKS["sageattention", "names and signatures"])
    assert "sageattention.core" in result.reason


def test_every_value_of_the_contract_is_known_when_it_is_used() -> None:
    known = set(calls.given(1, "cpu"))
    for call in contract.load()["calls"]:
        names = set(known)
        for step in call["steps"]:
            values: list[Any] = [*step.get("args", []), *step.get("keywords", {}).values()]
            used = {value[1:].split(".")[0] for value in values if str(value).startswith("$")}
            assert used <= names, call["case"]
            names |= {*step.get("into", []), step.get("new", "")}
        assert "out" in names


def test_steps_make_launch_and_call() -> None:
    values: dict[str, Any] = {"x": 3}
    calls._take({"new": "t", "shape": [2, 4], "dtype": "float16"}, values, "cpu")
    assert bool(values["t"].isnan().all())
    calls._take({"call": "math.pow", "args": ["$x", "$t.stride.0"], "into": ["y"]}, values, "cpu")
    assert values["y"] == 81
    calls._take({"call": "math.modf", "args": [2.5], "into": ["part", "whole"]}, values, "cpu")
    assert (values["part"], values["whole"]) == (0.5, 2.0)
