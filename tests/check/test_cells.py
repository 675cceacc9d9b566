"""What is wrong with a wheel in one environment, by what the probe found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from builder.check.cells import PROBE, faults, judge, read_probe, short_paths
from builder.check.combinations import Claim
from builder.check.label import Label
from builder.check.matrix import Cell, CellStatus
from builder.util.process import Finished

NAME = "sageattention::attend"
SCHEMA = f"{NAME}(Tensor query, Tensor(a!) output) -> Tensor"
UNIVERSAL_CLAIM = Claim(
    SpecifierSet(">=2.10"), SpecifierSet(">=3.10"), "", "3.10", Label.parse("cu130.universal")
)


def found(**changes: Any) -> dict[str, Any]:
    """What the probe says where all is well, but for the changes."""
    return {
        "python": "3.12.1",
        "torch": {"version": "2.11.0+cu130", "cuda": "13.0"},
        "problems": [],
        "extensions": {"_fused": {"library": True, "loaded": True, "functions": []}},
        "operators": {NAME: SCHEMA},
        "kernels": {NAME: True},
        "fake": {NAME: ""},
        "host": {NAME: ""},
        "trace": "",
        **changes,
    }


def test_all_well_is_ok() -> None:
    cell = Cell("2.11.0", "3.12")
    judge(cell, found(libraries=["/v/libcudart.so.13", "/v/libc10.so"]), UNIVERSAL_CLAIM)
    assert (cell.status, cell.reason) == (CellStatus.OK, "")
    assert cell.cudart == ["/v/libcudart.so.13"]
    assert (cell.installed, cell.cuda, cell.python_version) == ("2.11.0+cu130", "13.0", "3.12.1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"problems": ["import sageattention._fused: OSError: undefined symbol"]},
            "import sageattention._fused: OSError: undefined symbol",
        ),
        ({"operators": {}}, "no operator is registered"),
        ({"kernels": {NAME: False}}, f"{NAME}: no code for CUDA is registered"),
        ({"kernels": {}}, f"{NAME}: no code for CUDA is registered"),
        ({"fake": {NAME: "TypeError: no"}}, f"{NAME}: its fake implementation: TypeError: no"),
        ({"fake": {}}, f"{NAME}: its fake implementation: it was not called"),
        ({"host": {NAME: "AssertionError: takes"}}, f"{NAME}: its host code: AssertionError: takes"),
        ({"host": {}}, f"{NAME}: its host code: it was not called"),
        ({"trace": "KeyError: x"}, "tracing the whole path: KeyError: x"),
        (
            {"extensions": {"_fused": {"library": True, "loaded": False, "functions": []}}},
            "_fused: loaded in part only",
        ),
    ],
)
def test_anything_wrong_is_a_failure(changes: dict[str, Any], reason: str) -> None:
    cell = Cell("2.11.0", "3.12")
    judge(cell, found(**changes), UNIVERSAL_CLAIM)
    assert (cell.status, cell.reason) == (CellStatus.FAILED, reason)


def test_the_first_of_several_faults_is_told_with_their_number() -> None:
    cell = Cell("2.11.0", "3.12")
    judge(cell, found(fake={NAME: "A"}, host={NAME: "B"}, trace="C"), UNIVERSAL_CLAIM)
    assert cell.reason == f"{NAME}: its fake implementation: A (and 2 more)"


def test_a_wheel_without_some_kernels_has_no_whole_path_to_trace() -> None:
    assert faults(found(trace=None)) == []


def test_a_torch_for_another_cuda_shows_nothing() -> None:
    cell = Cell("2.10.0", "3.12")
    problem = "import torch: libcudart.so.13: cannot open shared object file"
    judge(cell, found(torch={"version": "2.10.0", "cuda": "12.8"}, problems=[problem]), UNIVERSAL_CLAIM)
    assert cell.status is CellStatus.NOT_TESTED
    assert cell.reason == (
        f"the index's torch is built for CUDA 12.8, the wheel for CUDA 13; with it: {problem}"
    )
    judge(cell, found(torch={"version": "2.10.0", "cuda": None}), UNIVERSAL_CLAIM)
    assert cell.status is CellStatus.NOT_TESTED
    assert "without CUDA" in cell.reason
    assert cell.reason.endswith("it loads, which shows nothing")


def test_a_torch_that_can_not_be_imported_is_a_failure() -> None:
    cell = Cell("2.10.0", "3.12")
    judge(cell, {"problems": ["import torch: OSError: no"]}, UNIVERSAL_CLAIM)
    assert (cell.status, cell.reason) == (CellStatus.FAILED, "import torch: OSError: no")


def test_a_dead_interpreter_is_a_failure() -> None:
    assert faults(read_probe(Finished(-6, "", "terminate called\nAborted\n"))) == [
        "the interpreter ended with signal 6: Aborted"
    ]
    assert faults(read_probe(Finished(1, "half a li", ""))) == [
        "the interpreter ended with status 1: half a li"
    ]


def test_dying_after_the_answer_is_a_failure_too() -> None:
    answer = "a warning\n" + json.dumps(found()) + "\n"
    assert faults(read_probe(Finished(0, answer, ""))) == []
    assert faults(read_probe(Finished(-11, answer, ""))) == [
        "the interpreter ended with signal 11 afterwards"
    ]


def test_an_environments_own_folder_is_left_out_of_reasons() -> None:
    inside = Path("/b/torch2.11.0-py3.12-7/bin/python")
    there = "/b/torch2.11.0-py3.12-7"
    text = f"{there}/lib/python3.12/site-packages/sageattention/_fused.so: no {there}/x"
    assert short_paths(text, inside) == "sageattention/_fused.so: no x"


def test_the_probe_lies_where_it_is_looked_for() -> None:
    assert PROBE.is_file()
    assert PROBE.with_name("import_check.py").is_file()
