"""The matrix of torch and Python: what a wheel claims, what is ok, and that nothing else reads as ok."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_wheels import NATIVE, OLDER_CUDA, UNIVERSAL, make_ours
from packaging.specifiers import SpecifierSet

from builder.check import compatibility
from builder.check.compatibility import (
    NOTHING_TESTED,
    Cell,
    Claim,
    Status,
    agree,
    count_line,
    difference,
    each_minor,
    faults,
    judge,
    main,
    minor_of,
    notes,
    read_claim,
    read_probe,
    read_resolution,
    short_paths,
    table,
    worst,
    write_json,
)
from builder.util.errors import UsageError

NAME = "sageattention::attend"
SCHEMA = f"{NAME}(Tensor query, Tensor(a!) output) -> Tensor"
OTHER_SCHEMA = f"{NAME}(Tensor query, Tensor output) -> Tensor"
UNIVERSAL_CLAIM = Claim(SpecifierSet(">=2.10"), SpecifierSet(">=3.10"), "", "3.10", "cu130")


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


def ok(torch: str, python: str, operators: dict[str, str] | None = None) -> Cell:
    return Cell(torch, python, Status.OK, operators={NAME: SCHEMA} if operators is None else operators)


@pytest.mark.parametrize(
    ("wheel", "torch", "python", "reason"),
    [
        (UNIVERSAL, "2.10.0", "3.10", ""),
        (UNIVERSAL, "2.15.0", "3.14", ""),
        (UNIVERSAL, "2.12", "3.13", ""),
        (UNIVERSAL, "2.9.1", "3.12", "the wheel requires torch>=2.10"),
        (UNIVERSAL, "2.12.0", "3.9", "the wheel's tag is for Python 3.10 and later"),
        (NATIVE, "2.11.0", "3.12", ""),
        (NATIVE, "2.12.0", "3.12", "the wheel requires torch==2.11.*"),
        (NATIVE, "2.11.0", "3.13", "the wheel's tag is for Python 3.12"),
    ],
)
def test_a_wheel_is_tried_with_what_it_claims(
    tmp_path: Path, wheel: str, torch: str, python: str, reason: str
) -> None:
    (path,) = make_ours(tmp_path, wheel)
    assert read_claim(path).why_not(torch, python) == reason


def test_the_cuda_version_comes_from_the_name(tmp_path: Path) -> None:
    claims = [read_claim(path) for path in make_ours(tmp_path, UNIVERSAL, OLDER_CUDA)]
    assert {(claim.cuda_tag, claim.cuda_major) for claim in claims} == {("cu130", "13"), ("cu128", "12")}


def test_all_well_is_ok() -> None:
    cell = Cell("2.11.0", "3.12")
    judge(cell, found(libraries=["/v/libcudart.so.13", "/v/libc10.so"]), UNIVERSAL_CLAIM)
    assert (cell.status, cell.reason) == (Status.OK, "")
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
    assert (cell.status, cell.reason) == (Status.FAILED, reason)


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
    assert cell.status is Status.NOT_TESTED
    assert cell.reason == (
        f"the index's torch is built for CUDA 12.8, the wheel for CUDA 13; with it: {problem}"
    )
    judge(cell, found(torch={"version": "2.10.0", "cuda": None}), UNIVERSAL_CLAIM)
    assert cell.status is Status.NOT_TESTED
    assert "without CUDA" in cell.reason
    assert cell.reason.endswith("it loads, which shows nothing")


def test_a_torch_that_can_not_be_imported_is_a_failure() -> None:
    cell = Cell("2.10.0", "3.12")
    judge(cell, {"problems": ["import torch: OSError: no"]}, UNIVERSAL_CLAIM)
    assert (cell.status, cell.reason) == (Status.FAILED, "import torch: OSError: no")


def test_a_dead_interpreter_is_a_failure() -> None:
    assert faults(read_probe(-6, "", "terminate called\nAborted\n")) == [
        "the interpreter ended with signal 6: Aborted"
    ]
    assert faults(read_probe(1, "half a li", "")) == ["the interpreter ended with status 1: half a li"]


def test_an_environments_own_folder_is_left_out_of_reasons() -> None:
    inside = Path("/b/torch2.11.0-py3.12-7/bin/python")
    there = "/b/torch2.11.0-py3.12-7"
    text = f"{there}/lib/python3.12/site-packages/sageattention/_fused.so: no {there}/x"
    assert short_paths(text, inside) == "sageattention/_fused.so: no x"


def test_dying_after_the_answer_is_a_failure_too() -> None:
    answer = "a warning\n" + json.dumps(found()) + "\n"
    assert faults(read_probe(0, answer, "")) == []
    assert faults(read_probe(-11, answer, "")) == ["the interpreter ended with status -11 afterwards"]


def test_schemas_are_those_of_the_first_that_is_ok() -> None:
    failed = Cell("2.10.0", "3.10", Status.FAILED, "x", operators={})
    cells = [failed, ok("2.11.0", "3.10"), ok("2.12.1", "3.10"), ok("2.13.0", "3.10", {NAME: OTHER_SCHEMA})]
    agree(cells)
    assert [cell.status for cell in cells] == [Status.FAILED, Status.OK, Status.OK, Status.FAILED]
    assert failed.reason == "x"
    assert cells[3].reason == f"{OTHER_SCHEMA} here, {SCHEMA} there (torch 2.11.0, Python 3.10)"


def test_missing_and_added_operators_are_told() -> None:
    assert difference({NAME: SCHEMA}, {NAME: SCHEMA}) == ""
    assert difference({NAME: SCHEMA}, {}) == f"{NAME} is missing here, and was there"
    assert difference({}, {NAME: SCHEMA}) == f"{NAME} is here, and was not there"


def test_the_table_has_a_row_a_torch_and_a_column_a_python() -> None:
    cells = [
        ok("2.11.0", "3.10"),
        Cell("2.11.0", "3.14", Status.NO_PYTHON, "Python 3.14 is not on this machine"),
        Cell("2.15.0", "3.10", Status.NO_TORCH, "no wheels"),
        Cell("2.15.0", "3.14", Status.FAILED, "no wheels"),
    ]
    assert table(cells) == [
        "torch   Python 3.10        Python 3.14",
        "2.11.0  ok                 no such Python [1]",
        "2.15.0  no such torch [2]  FAILED [2]",
    ]
    assert notes(cells) == ["[1] Python 3.14 is not on this machine", "[2] no wheels"]
    assert count_line(cells) == "1 ok, 1 FAILED, 1 no such torch, 1 no such Python"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([Status.OK, Status.NO_TORCH, Status.NO_PYTHON, Status.NOT_CLAIMED], 0),
        ([Status.OK, Status.FAILED, Status.NOT_TESTED], 1),
        ([Status.OK, Status.NOT_TESTED], NOTHING_TESTED),
        ([Status.NO_TORCH, Status.NO_PYTHON], NOTHING_TESTED),
        ([], NOTHING_TESTED),
    ],
)
def test_what_was_not_tested_is_no_pass(statuses: list[Status], status: int) -> None:
    assert worst([Cell("2.11.0", "3.12", one) for one in statuses]) == status
    assert worst([{"status": one.value} for one in statuses]) == status


def test_the_resolver_tells_a_version_or_why_there_is_none() -> None:
    assert read_resolution(0, "torch==2.12.1\n", "") == ("2.12.1", "")
    errors = """error: No solution found when resolving dependencies:
  cause: Because torch==2.15.0 has no wheels with a matching Python implementation tag (e.g., `cp310`) and
         you require torch==2.15.0, we can conclude that your requirements are unsatisfiable."""
    version, reason = read_resolution(1, "", errors)
    assert version == ""
    assert reason == (
        "no such torch: torch==2.15.0 has no wheels with a matching Python implementation tag (e.g., `cp310`)"
    )


def test_an_index_that_can_not_be_asked_is_not_the_lack_of_a_torch() -> None:
    version, reason = read_resolution(2, "", "error: Failed to fetch\n  timed out\n")
    assert (version, reason) == ("", "error: Failed to fetch timed out")


def test_the_newest_of_each_minor_version_is_looked_for() -> None:
    there = ["2.9.1", "2.10.0", "2.11.0", "2.11.1", "2.13.0"]

    def newest(text: str) -> str:
        return next((one for one in reversed(there) if SpecifierSet(text).contains(one)), "")

    assert each_minor(">=2.10", newest) == ["2.10.0", "2.11.1", "2.13.0"]
    assert each_minor("==2.11.*", newest) == ["2.11.1"]
    assert each_minor(">=3", newest) == []


def test_an_index_that_answers_the_same_again_ends_the_search() -> None:
    assert each_minor(">=2.10", lambda _: "2.10.0") == ["2.10.0"]


@pytest.mark.parametrize(("version", "minor"), [("3.12.1", "3.12"), ("3.12", "3.12"), ("", "")])
def test_minor_versions(version: str, minor: str) -> None:
    assert minor_of(version) == minor


def test_no_abi3_wheel_is_said_and_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ours(tmp_path, NATIVE)
    assert main(["--wheelhouse", str(tmp_path)]) == NOTHING_TESTED
    assert "nothing was tested" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--wheel", "no.whl"], ["--torch", "newest"], ["--torch", ","], ["--python", "/no/such/python"], ["x"]],
)
def test_bad_arguments_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    make_ours(tmp_path, UNIVERSAL)
    with pytest.raises(UsageError):
        main(["--wheelhouse", str(tmp_path), *arguments])


def test_what_can_be_told_beforehand_needs_no_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python that is not here, and a torch that the wheel does not claim."""
    (wheel,) = make_ours(tmp_path, NATIVE)
    report = tmp_path / "report.json"
    arguments = ["--wheel", str(wheel), "--torch", "2.10.0", "--python", "3.99,3.12"]
    status = main([*arguments, "--torch-index", "http://127.0.0.1:9", "--json", str(report)])
    assert status == NOTHING_TESTED
    out = capsys.readouterr().out
    assert "2.10.0  not claimed [1]" in out
    assert "[1] the wheel requires torch==2.11.*" in out
    (values,) = json.loads(report.read_text())["wheels"]
    assert values["counts"]["ok"] == 0
    assert {cell["status"] for cell in values["cells"]} == {"not claimed"}


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("{}")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


def test_the_probe_lies_where_it_is_looked_for() -> None:
    assert compatibility.PROBE.is_file()
    assert compatibility.PROBE.with_name("import_check.py").is_file()
