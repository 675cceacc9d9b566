"""Wheels with every torch and Python that they claim."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.audited import STABLE_NAME, raw_wheel
from fakes.environments import GOOD as PACKAGE
from fakes.environments import OPERATORS, TORCH, environment
from fakes.static_server import serving
from fakes.tools import program

from builder.check import compatibility
from builder.check.compatibility import (
    NOTHING_TESTED,
    Result,
    WheelResults,
    agree,
    exit_code,
    find_python,
    judge,
    main,
    minor_of,
)
from builder.target.targets import MACHINES
from builder.util import http
from builder.util.errors import UsageError
from builder.wheel.label import WheelLabel

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = next(machine.name for machine in MACHINES if not machine.is_here)
NATIVE_NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
PY3 = STABLE_NAME  # py3-none
ABI3 = PY3.replace("py3-none", "cp310-abi3")
METADATA = ["Requires-Dist: torch>=2.11", "Requires-Python: >=3.10"]
NAME = "sageattention::attend"
SCHEMA = f"{NAME}(Tensor query, Tensor(a!) output) -> Tensor"
REGISTERS = "import torch\ntorch.register('good', refuses=True)\n"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of a package index with two torches for this Python, and one for another machine."""
    tag = f"cp3{sys.version_info.minor}-cp3{sys.version_info.minor}-manylinux_2_28"
    names = [f"2.11.{patch}%2Bcu130-{tag}_{platform.machine()}" for patch in (0, 1)]
    names.append(f"2.12.0-{tag}_{OTHER}")
    (tmp_path / "index" / "torch").mkdir(parents=True)
    page = "".join(f'<a href="/whl/torch-{name}.whl#sha256=0">torch-{name}.whl</a>' for name in names)
    (tmp_path / "index" / "torch" / "index.html").write_text(page)
    with serving(tmp_path / "index") as server:
        yield server.url


def report_of(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a universal wheel for torch 2.11 and newer."""
    wheel = raw_wheel(tmp_path, {}, METADATA, name=PY3)
    status = main(["--wheel", str(wheel), *arguments, "--json", str(tmp_path / "report.json")])
    (report,) = json.loads((tmp_path / "report.json").read_text())["wheels"]
    return status, report


@pytest.mark.parametrize("triton", ["", "3.5"])
def test_a_wheel_is_installed_loaded_and_called(
    tmp_path: Path,
    index: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    triton: str,
) -> None:
    requirements: list[str] = []

    def make(path: Path, python: Path, packages: list[str], torch_index: str) -> Path:
        requirements.extend([*packages, torch_index])
        made = environment(path, {**PACKAGE, "_fused.py": REGISTERS}, TORCH + OPERATORS)
        if triton:  # which is not whole
            info = next(path.glob("lib/python3*/site-packages")) / f"triton-{triton}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: triton\nVersion: {triton}\n")
        return made

    monkeypatch.setattr(compatibility, "make_clean_venv", make)
    monkeypatch.setattr(compatibility, "install_wheel", lambda python, wheel: None)
    status, report = report_of(tmp_path, "--python", f"{THIS},3.99", "--torch-index", index)
    assert requirements == ["torch==2.11.1", index]
    out = capsys.readouterr().out
    cell = report["cells"][0]
    assert cell["found"]["torch"] == "2.11.0+cu130"
    assert cell["found"]["operators"] == {"sageattention::good": "sageattention::good(Tensor a) -> ()"}
    if triton:
        assert status == 1
        assert cell["reason"].startswith(f"Triton {triton}: ended with status 1: ")
    else:
        assert f"torch   Python {THIS}  Python 3.99\n2.11.1  ok           no such torch [1]" in out
        assert status == 0


def test_a_wheel_is_resolved_for_a_python_that_is_not_here(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(compatibility, "run", commands.append)
    monkeypatch.setattr(compatibility, "find_python", lambda version: None)
    status, report = report_of(tmp_path, "--torch-index", index)
    assert f"torch   Python {THIS}\n2.11.1  resolved, not imported [1]" in capsys.readouterr().out
    assert status == NOTHING_TESTED
    assert report["cells"][0]["reason"].endswith("not on this machine: pip would install the wheel")
    (pip,) = commands
    assert {f"--abi=cp{THIS.replace('.', '')}", f"--python-version={THIS}"} < {*pip}


def test_without_an_environment_nothing_is_ok(
    tmp_path: Path, index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--torch-index", index, "--python", f"{THIS},3.99", "--torch", "2.10,2.13"]
    status, report = report_of(tmp_path, *arguments)
    assert status == NOTHING_TESTED
    statuses = [cell["status"] for cell in report["cells"]]
    assert statuses == [*["not claimed"] * 2, *["no such torch"] * 2]
    assert "[1] the wheel requires torch>=2.11" in capsys.readouterr().out


def test_an_index_that_does_not_answer_is_not_the_lack_of_a_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0)
    arguments = ["--torch-index", "http://127.0.0.1:9", "--torch", "2.11", "--python", THIS]
    status, report = report_of(tmp_path, *arguments)
    assert status == NOTHING_TESTED
    assert report["cells"][0]["reason"] == "no index says which torches there are"


def test_no_wheel_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NATIVE_NAME, PY3.replace("x86_64", OTHER)):
        raw_wheel(tmp_path, {}, name=name)
    assert main(["--wheelhouse", str(tmp_path / "built")]) == NOTHING_TESTED
    out = capsys.readouterr().out
    assert f"is for linux_{OTHER}, and this machine is {platform.machine()}: not tested" in out
    assert "nothing was tested" in out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--wheel=no.whl", "No such wheel"),
        ("--torch=newest", "Argument --torch: "),
        ("--torch=,", "Argument --torch: "),
        ("--python=three", "three is not a Python that runs"),
        ("--python=/no/such/python", "/no/such/python is not a Python that runs"),
    ],
)
def test_bad_arguments_are_usage_errors(tmp_path: Path, argument: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        report_of(tmp_path, argument)


@pytest.mark.parametrize(
    ("name", "torch", "python", "reason"),
    [
        (PY3, "2.11.0", "3.10", ""),
        (PY3, "2.15", "3.14t", ""),
        (PY3, "2.10.1", "3.12", "the wheel requires torch>=2.11"),
        (PY3, "2.11.0", "3.9", "the wheel requires Python >=3.10"),
        (ABI3, "2.11.0", "3.14", ""),
        (ABI3, "2.11.0", "3.9", "the wheel's tag, cp310-abi3, is not for Python 3.9"),
        (ABI3, "2.11.0", "3.14t", "the wheel's tag, cp310-abi3, is not for Python 3.14t"),
        (NATIVE_NAME, "2.11.0", "3.12", ""),
        (NATIVE_NAME, "2.11.0", "3.13", "the wheel's tag, cp312-cp312, is not for Python 3.13"),
    ],
)
def test_what_a_wheel_claims(tmp_path: Path, name: str, torch: str, python: str, reason: str) -> None:
    wheel = WheelResults(raw_wheel(tmp_path, {}, METADATA, name=name))
    assert wheel.why_not(torch, python) == reason


@pytest.mark.parametrize(
    ("torch", "cuda", "problems", "status", "reason"),
    [
        ("2.11.0+cu130", "13.0", [], "ok", ""),
        ("2.11.0+cu130", "13.0", ["A", "B"], "FAILED", "A (and 1 more)"),
        (
            *("2.10.0", "12.8", ["import torch: no"], "not tested"),
            "the index's torch is built for CUDA 12.8, the wheel for CUDA 13; with it: import torch: no",
        ),
        (
            *("2.10.0", "", [], "not tested"),
            "the index's torch is built without CUDA, the wheel for CUDA 13; it loads, which shows nothing",
        ),
    ],
)
def test_what_the_probe_found_is_judged(
    torch: str, cuda: str, problems: list[str], status: str, reason: str
) -> None:
    found = {"torch": torch, "cuda": cuda, "problems": problems}
    assert judge(found, WheelLabel.parse(STABLE_NAME)) == (status, reason)


def test_schemas_are_those_of_the_first_that_is_ok() -> None:
    several: list[dict[str, str]] = [{NAME: SCHEMA}, {NAME: SCHEMA}, {NAME: "other"}, {}]
    passed = [Result("2.11.0", "3.10", "ok", found={"operators": each}) for each in several]
    agree([Result("2.10.0", "3.10", "FAILED", "x"), *passed])
    there = f", {SCHEMA} there (torch 2.11.0, Python 3.10)"
    assert {result.reason.replace(there, "") for result in passed} == {"", "other here", f"no {NAME} here"}
    assert [result.status for result in passed] == ["ok"] * 2 + ["FAILED"] * 2


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["ok", "no such torch", "resolved, not imported", "not claimed"], 0),
        (["ok", "FAILED", "not tested"], 1),
        (["ok", "not tested"], NOTHING_TESTED),
        (["no such torch", "resolved, not imported"], NOTHING_TESTED),
        ([], NOTHING_TESTED),
    ],
)
def test_what_was_not_tested_is_no_pass(statuses: list[str], code: int) -> None:
    assert exit_code([Result("2.11.0", "3.12", status) for status in statuses]) == code


def test_a_python_of_pyenv_stands_in_for_a_shim_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "python3.99", "#!/bin/sh\nexit 1\n")
    python = program(tmp_path / "versions" / "3.99.2" / "bin" / "python", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert find_python("3.99") == python
    assert find_python("3.99t") is None
    assert find_python("3.98") is None
    assert minor_of("3.12.1") == minor_of("3.12") == "3.12"
    assert minor_of("3.14.2t") == minor_of("3.14t") == "3.14t"
