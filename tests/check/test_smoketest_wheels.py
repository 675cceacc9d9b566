"""Which wheels are smoke-tested, with what, and what comes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.audited import raw_wheel

from builder.check import smoketest_wheels
from builder.check.smoketest_wheels import main, python_for, torch_for
from builder.smoketest.report import ExitCode
from builder.target.targets import Target, load_targets
from builder.util.errors import UsageError
from builder.wheel.label import WheelLabel

TARGETS = load_targets()
NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"
UNIVERSAL = "sageattention-2.2.0+cu128.universal.2-py3-none-linux_x86_64.whl"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
CODES = {"good": 0, "failing": 1, "other_gpu": 22, "dead": -6}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tests that were run on a machine with a GPU; each ends as `CODES` says for its wheel."""
    commands: list[list[str]] = []

    def show(command: list[Any]) -> int:
        commands.append([*map(str, command)])
        report = Path(command[3])
        code = CODES.get(report.name.split("-")[0], 1)
        if code >= 0:
            report.write_text(json.dumps({"headline": f"ended {code}\nmore"}))
        return code

    monkeypatch.setattr(smoketest_wheels, "local_gpus", lambda: ("9.0",))
    monkeypatch.setattr(smoketest_wheels, "make_clean_venv", lambda *arguments: tmp_path / "python")
    monkeypatch.setattr(smoketest_wheels, "show", show)
    return commands


def test_the_test_runs_with_the_wheels_python_and_nothing_else(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, {}, name=UNIVERSAL)
    arguments = ["universal-cu128", "--wheelhouse", str(wheel.parent), "--quick", "--seed", "4"]
    assert main(arguments) == ExitCode.FAILURES
    report = Path(f"{wheel}.smoketest.json")
    assert commands[0][0] == str(tmp_path / "python")
    assert commands[0][2:] == ["--json", str(report), "--quick", "--seed=4"]
    assert f"{wheel.name}  ended 1\nwheels: 0 passed, 1 failed, 0 not run" in capsys.readouterr().out
    assert json.loads(report.read_text())["wheel"]["filename"] == wheel.name


@pytest.mark.parametrize(
    ("names", "code", "counts"),
    [
        ("good", 0, "1 passed, 0 failed"),
        ("good other_gpu", 22, "1 passed, 1 failed"),
        ("good other_gpu failing", 1, "1 passed, 2 failed"),
        ("good dead", -6, "1 passed, 1 failed"),
    ],
)
def test_the_worst_result_counts(
    tmp_path: Path,
    commands: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    names: str,
    code: int,
    counts: str,
) -> None:
    for name in names.split():
        raw_wheel(tmp_path, {}, name=f"{name}-1-py3-none-any.whl")
    assert main(["--wheelhouse", str(tmp_path / "built")]) == code
    out = capsys.readouterr().out
    assert out.endswith(f"wheels: {counts}, 0 not run\n")
    assert ("FAILED: the test ended with exit code -6 and no report" in out) == (code == -6)


def test_a_wheel_that_did_not_run_is_no_pass(tmp_path: Path, commands: list[list[str]]) -> None:
    wheelhouse = ["--wheelhouse", str(tmp_path / "built")]
    assert main(wheelhouse) == ExitCode.NO_WHEEL
    other = raw_wheel(tmp_path, {}, name="other-1-cp399-cp399-linux_x86_64.whl")
    assert main(wheelhouse) == ExitCode.NO_WHEEL
    assert main(["--wheel", str(other)]) == ExitCode.WHEEL_FOR_ANOTHER_PYTHON
    raw_wheel(tmp_path, {}, name="good-1-py3-none-any.whl")
    assert main(wheelhouse) == ExitCode.PASS
    assert main(["universal-cu128", *wheelhouse]) == ExitCode.NO_WHEEL
    with pytest.raises(UsageError, match="No such wheel"):
        main(["--wheel", str(tmp_path / "absent.whl")])


def test_imports_alone_replace_no_report(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, {}, name="good-1-py3-none-any.whl")
    arguments = ["--wheelhouse", str(tmp_path / "built"), "--import-only"]
    assert main(arguments) == ExitCode.FAILURES
    assert commands[0][-1] == "--import-only"
    assert not Path(f"{wheel}.smoketest.json").exists()
    assert "passed" not in capsys.readouterr().out


def test_a_machine_without_a_gpu_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NATIVE).touch()
    monkeypatch.setattr(smoketest_wheels, "local_gpus", lambda: ())
    assert main(["--wheelhouse", str(tmp_path)]) == ExitCode.NO_GPU
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No NVIDIA GPU answers here: no wheel was tested.")


def test_a_file_that_is_no_wheel_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sageattention-2.2.0-py3-none-any.whl"
    path.write_text("not a zip archive")
    assert main(["--import-only", "--wheel", str(path)]) not in (ExitCode.PASS, ExitCode.NO_WHEEL)
    assert "wheels: 0 only imported (nothing was computed), 1 failed, 0 not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "target"), [(NATIVE, TARGETS["cp312-cu130"]), (UNIVERSAL, TARGETS["universal-cu128"])]
)
def test_our_wheel_gets_its_targets_torch_not_the_newest_that_it_allows(name: str, target: Target) -> None:
    assert torch_for(Path(name)) == (f"torch=={target.torch}", target.torch_index)


@pytest.mark.parametrize(
    ("version", "lines", "requirement", "index"),
    [
        ("2.2.0", [], "torch", None),
        ("2.2.0", ["Requires-Dist: numpy", "Requires-Dist: torch==2.8.*"], "torch==2.8.*", None),
        ("2.2.0+cu128torch2.8", [], "torch==2.8.*", "https://download.pytorch.org/whl/cu128"),
    ],
)
def test_another_projects_wheel_gets_what_it_names(
    tmp_path: Path, version: str, lines: list[str], requirement: str, index: str | None
) -> None:
    wheel = raw_wheel(tmp_path, {}, lines, name=f"x-{version}-cp39-cp39-linux_x86_64.whl")
    assert torch_for(wheel) == (requirement, index)


def test_which_python() -> None:
    assert python_for(WheelLabel.parse(NATIVE), "3.13") == "3.12"
    assert python_for(WheelLabel.parse(UNIVERSAL), None) == THIS
    assert python_for(WheelLabel.parse(UNIVERSAL), "3.13") == "3.13"
    assert python_for(WheelLabel.parse("x-1-cp310-abi3-linux_x86_64.whl"), "3.11") == "3.11"
