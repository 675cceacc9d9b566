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
from fakes.environments import TORCH, environment
from fakes.static_server import serving

from builder.check import compatibility, compatibility_probe
from builder.check.compatibility import (
    NOTHING_TESTED,
    Result,
    Status,
    WheelResults,
    agree,
    judge,
    main,
    read_probe,
    worst,
)
from builder.target.targets import MACHINES
from builder.util import http
from builder.util.errors import UsageError
from builder.util.process import Finished, run
from builder.wheel.label import WheelLabel

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = next(machine.name for machine in MACHINES if not machine.is_here)
NATIVE_NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
PY3 = STABLE_NAME  # py3-none
ABI3 = PY3.replace("py3-none", "cp310-abi3")
LABEL = WheelLabel.parse(STABLE_NAME)
NAME = "sageattention::attend"
SCHEMA = f"{NAME}(Tensor query, Tensor(a!) output) -> Tensor"

# What the probe asks of torch: schemas, dispatch, fake tensors, and operators to call.
OPERATORS = """
import contextlib, sys

class Operator:
    def __init__(self, name, refuses):
        self._name, self._refuses = name, refuses
        argument = types.SimpleNamespace(name="query", type="Tensor")
        self._schema = types.SimpleNamespace(arguments=[argument], returns=[])
    def name(self):
        return self._name
    def __call__(self, query):
        assert query.device == "cuda:0"
    def redispatch(self, keys, query):
        assert query.device == "cpu"
        if self._refuses:
            raise RuntimeError("query must be on CUDA")

def register(name, refuses):
    registered.append(Schema(f"sageattention::{name}"))
    packet = types.SimpleNamespace(default=Operator(f"sageattention::{name}", refuses))
    setattr(ops.sageattention, name, packet)

ops = types.SimpleNamespace(sageattention=types.SimpleNamespace())
_C._dispatch_has_kernel_for_dispatch_key = lambda name, key: name.endswith("good") and key == "CUDA"
_C.DispatchKey = types.SimpleNamespace(CUDA="CUDA")
_C.DispatchKeySet = lambda key: {key}
int8 = float16 = float32 = float8_e4m3fn = "dtype"
empty = lambda shape, dtype, device: types.SimpleNamespace(shape=shape, device=device)
__path__ = []
fake_tensor = types.ModuleType("torch._subclasses.fake_tensor")
fake_tensor.FakeTensorMode = contextlib.nullcontext
sys.modules["torch._subclasses"] = types.ModuleType("torch._subclasses")
sys.modules["torch._subclasses.fake_tensor"] = fake_tensor
"""
REGISTERS = "import torch\ntorch.register('good', refuses=True)\n"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of a package index with two torches for this Python, and one for another machine."""
    tag, other = (
        f"cp3{sys.version_info.minor}-cp3{sys.version_info.minor}-manylinux_2_28_{name}"
        for name in (platform.machine(), OTHER)
    )
    names = [
        f"torch-2.11.0%2Bcu130-{tag}.whl",
        f"torch-2.11.1%2Bcu130-{tag}.whl",
        f"torch-2.12.0-{other}.whl",
    ]
    (tmp_path / "index" / "torch").mkdir(parents=True)
    page = "".join(f'<a href="/whl/{name}#sha256=0">{name}</a>' for name in names)
    (tmp_path / "index" / "torch" / "index.html").write_text(page)
    with serving(tmp_path / "index") as server:
        yield server.url


def report_of(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main([*arguments, "--json", str(tmp_path / "report.json")])
    (wheel,) = json.loads((tmp_path / "report.json").read_text())["wheels"]
    return status, wheel


def test_a_wheel_is_installed_loaded_and_called(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, metadata=["Requires-Dist: torch>=2.11"], name=STABLE_NAME)
    requirements: list[str] = []

    def make(path: Path, python: Path, packages: list[str], torch_index: str) -> Path:
        requirements.extend([*packages, torch_index])
        return environment(path, {**PACKAGE, "_fused.py": REGISTERS}, TORCH + OPERATORS)

    monkeypatch.setattr(compatibility, "make_clean_venv", make)
    monkeypatch.setattr(compatibility, "install_wheel", lambda python, wheel: None)
    arguments = ["--wheelhouse", str(wheel.parent), "--python", f"{THIS},3.99", "--torch-index", index]
    status, report = report_of(tmp_path, *arguments)
    assert requirements == ["torch==2.11.1", index]
    out = capsys.readouterr().out
    assert f"torch   Python {THIS}  Python 3.99\n2.11.1  ok           no such Python [1]" in out
    assert status == 0
    assert report["schemas"] == {"sageattention::good": "sageattention::good(Tensor a) -> ()"}
    assert report["counts"]["ok"] == 1
    assert report["triton"] == []
    assert report["cells"][0]["installed"] == "2.11.0+cu130"


def test_a_wheel_is_resolved_for_a_python_that_is_not_here(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, metadata=["Requires-Dist: torch>2.10.9999"], name=PY3)
    commands: list[list[str]] = []
    monkeypatch.setattr(compatibility, "run", commands.append)
    monkeypatch.setattr(compatibility, "find_python", lambda version: None)
    status, report = report_of(tmp_path, "--wheel", str(wheel), "--torch-index", index)
    assert f"torch   Python {THIS}\n2.11.1  resolved, not imported [1]" in capsys.readouterr().out
    assert status == NOTHING_TESTED
    assert report["cells"][0]["reason"].endswith("not on this machine: pip and uv would install the wheel")
    pip, uv = commands
    assert {f"--abi=cp{THIS.replace('.', '')}", f"--python-version={THIS}", str(wheel)} < {*pip}
    assert uv[-2:] == ["--index-strategy=unsafe-best-match", "torch==2.11.1"]


def test_without_an_environment_nothing_is_ok(
    tmp_path: Path, index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, metadata=["Requires-Dist: torch>=2.11"], name=STABLE_NAME)
    arguments = ["--wheel", str(wheel), "--torch-index", index, "--python", f"{THIS},3.99"]
    status, report = report_of(tmp_path, *arguments, "--torch", "2.10,2.13")
    assert status == NOTHING_TESTED
    assert [cell["status"] for cell in report["cells"]] == [
        *["not claimed"] * 2,
        "no such torch",
        "no such Python",
    ]
    assert "[1] the wheel requires torch>=2.11" in capsys.readouterr().out


def test_an_index_that_does_not_answer_is_not_the_lack_of_a_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0)
    wheel = raw_wheel(tmp_path, metadata=["Requires-Dist: torch>=2.11"], name=STABLE_NAME)
    arguments = ["--wheel", str(wheel), "--torch-index", "http://127.0.0.1:9", "--torch", "2.11"]
    status, report = report_of(tmp_path, *arguments, "--python", THIS)
    assert status == NOTHING_TESTED
    assert report["cells"][0]["reason"] == "no index says which torches there are"


def test_no_wheel_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_wheel(tmp_path, name=NATIVE_NAME)
    raw_wheel(tmp_path, name=STABLE_NAME.replace("x86_64", OTHER))
    assert main(["--wheelhouse", str(tmp_path / "built")]) == NOTHING_TESTED
    out = capsys.readouterr().out
    assert f"is for {OTHER}, and this machine is {platform.machine()}: not tested" in out
    assert "nothing was tested" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--wheel", "no.whl"],
        ["--torch", "newest"],
        ["--torch", ","],
        ["--torch", "/2.9"],
        ["--python", "/no/such/python"],
        ["x"],
    ],
)
def test_bad_arguments_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    raw_wheel(tmp_path, name=STABLE_NAME)
    with pytest.raises(UsageError):
        main(["--wheelhouse", str(tmp_path / "built"), *arguments])


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
    metadata = ["Requires-Dist: torch>=2.11", "Requires-Python: >=3.10"]
    why = WheelResults(raw_wheel(tmp_path, {}, metadata, name=name)).why_not(torch, python)
    assert why == reason


def found(**changes: Any) -> dict[str, Any]:
    """What the probe prints where all is well, but for the changes."""
    return {
        "python": "3.12.1",
        "torch": {"version": "2.11.0+cu130", "cuda": "13.0"},
        "problems": [],
        "extensions": {"_fused": {"library": True, "loaded": True, "functions": []}},
        "operators": {NAME: SCHEMA},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"problems": ["import x: OSError: undefined symbol\nmore"]}, "import x: OSError: undefined symbol"),
        ({"problems": ["A", "B"]}, "A (and 1 more)"),
        (
            {"torch": {"version": "2.10.0", "cuda": "12.8"}, "problems": ["import torch: no"]},
            "the index's torch is built for CUDA 12.8, the wheel for CUDA 13; with it: import torch: no",
        ),
        (
            {"torch": {"version": "2.10.0", "cuda": None}},
            "the index's torch is built without CUDA, the wheel for CUDA 13; it loads, which shows nothing",
        ),
    ],
)
def test_what_the_probe_found_is_judged(changes: dict[str, Any], reason: str) -> None:
    result = Result("2.11.0", "3.12")
    judge(result, found(**changes), LABEL)
    expected = Status.NOT_TESTED if "torch" in changes else Status.FAILED if reason else Status.OK
    assert (result.status, result.reason) == (expected, reason)


def test_a_dead_interpreter_is_a_failure() -> None:
    inside = Path("/b/torch2.11.0-py3.12-7/bin/python")
    errors = f"terminate called\n{inside.parents[1]}/lib/python3.12/site-packages/x.so: Aborted\n"
    assert read_probe(Finished(-6, "", errors), inside)["problems"] == [
        "the interpreter ended with signal 6: x.so: Aborted"
    ]
    answer = "a warning\n" + json.dumps(found()) + "\n"
    assert read_probe(Finished(0, answer, ""), inside)["problems"] == []
    after = read_probe(Finished(-11, answer, ""), inside)["problems"]
    assert after == ["the interpreter ended with signal 11 afterwards"]


def test_schemas_are_those_of_the_first_that_is_ok() -> None:
    results = [Result("2.10.0", "3.10", Status.FAILED, "x")]
    for operators in ({NAME: SCHEMA}, {NAME: SCHEMA}, {NAME: "other"}, {}):
        results.append(Result("2.11.0", "3.10", Status.OK, operators=operators))
    agree(results)
    assert [result.status for result in results] == [
        Status.FAILED, Status.OK, Status.OK, Status.FAILED, Status.FAILED
    ]  # fmt: skip
    assert results[3].reason == f"other here, {SCHEMA} there (torch 2.11.0, Python 3.10)"
    assert results[4].reason == f"no {NAME} here, {SCHEMA} there (torch 2.11.0, Python 3.10)"


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.OK, Status.NO_TORCH, Status.NO_PYTHON, Status.NOT_CLAIMED], 0),
        ([Status.OK, Status.FAILED, Status.NOT_TESTED], 1),
        ([Status.OK, Status.NOT_TESTED], NOTHING_TESTED),
        ([Status.NO_TORCH, Status.NO_PYTHON], NOTHING_TESTED),
        ([], NOTHING_TESTED),
    ],
)
def test_what_was_not_tested_is_no_pass(statuses: list[Status], code: int) -> None:
    assert worst([Result("2.11.0", "3.12", status) for status in statuses]) == code


def probe(python: Path) -> dict[str, Any]:
    done = run([python, "-I", str(compatibility_probe.__file__)], check=False)
    return read_probe(done, python)


def test_the_probe_calls_each_operator_on_fake_tensors_and_on_the_cpu(tmp_path: Path) -> None:
    registers = REGISTERS + "torch.register('bad', refuses=False)\n"
    answer = probe(environment(tmp_path / "venv", {**PACKAGE, "_fused.py": registers}, TORCH + OPERATORS))
    assert answer["problems"] == [
        "sageattention::bad: no code for CUDA is registered",
        "sageattention::bad: its host code: AssertionError: takes tensors on the CPU without an exception",
    ]


def test_the_probe_says_the_loaders_own_reason_first(tmp_path: Path) -> None:
    broken = {**PACKAGE, "_fused.py": "raise OSError('Could not load this library')\n"}
    problems = probe(environment(tmp_path / "venv", broken))["problems"]
    assert problems[0].startswith("_fused.so: ")
    assert problems[0].endswith("file too short")
    assert problems[-1] == "import sageattention._fused: OSError: Could not load this library"


def test_without_torch_there_is_nothing_to_call(tmp_path: Path) -> None:
    answer = probe(environment(tmp_path / "venv", PACKAGE, "raise ImportError('libcudart.so.13')"))
    assert answer["operators"] == {}
    assert "import torch: ImportError: libcudart.so.13" in answer["problems"]
