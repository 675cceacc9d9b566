"""Which wheels are smoke-tested, with what, and what comes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.audited import raw_wheel

from builder.check import smoketest_wheels
from builder.check.compatibility import why_not_here
from builder.check.pythons import find_python, minor_of
from builder.check.smoketest_wheels import (
    Ending,
    belongs_to,
    conclude,
    main,
    python_for,
    summary,
    torch_for,
    worst,
)
from builder.smoketest.report import ExitCode
from builder.target.machines import MACHINES
from builder.target.targets import load_targets
from builder.util.errors import UsageError
from builder.wheel.label import WheelLabel

TARGETS = load_targets()
NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"
UNIVERSAL = (
    f"sageattention-2.2.0+cu128.universal.2-{TARGETS['universal-cu128'].wheel_tag('linux_x86_64')}.whl"
)
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def ending(code: int, *, ran: bool = True, name: str = "a.whl") -> Ending:
    return Ending(Path(name), code, "line", ran)


@pytest.mark.parametrize(
    ("codes", "named", "expected"),
    [
        ([0, 0], False, 0),
        ([0, 25, 1], False, 1),
        ([0, 22], False, 22),
        ([0, "skipped"], False, 0),
        ([0, "skipped"], True, 23),
        (["skipped"], False, 28),
    ],
)
def test_the_worst_ending_counts_and_a_skip_is_no_pass(codes: list[Any], named: bool, expected: int) -> None:
    endings = [ending(23, ran=False) if code == "skipped" else ending(code) for code in codes]
    assert worst(endings, named=named) == expected


def test_the_summary_counts_what_was_not_run() -> None:
    endings = [ending(0), ending(1), ending(23, ran=False, name="long name.whl")]
    lines = summary(endings, import_only=False)
    assert lines[-1] == "wheels: 1 passed, 1 failed, 1 not run"
    assert len({line.index("line") for line in lines[:3]}) == 1
    assert "pass" not in summary([ending(0)], import_only=True)[-1]


@pytest.mark.parametrize(
    ("gpus", "why"), [((), "No NVIDIA GPU on this machine"), (None, "The NVIDIA driver does not answer")]
)
def test_a_machine_without_a_gpu_says_so_in_one_line(
    tmp_path: Path,
    gpus: tuple[str, ...] | None,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(smoketest_wheels, "local_gpus", lambda: gpus)
    (tmp_path / NATIVE).touch()
    assert main(["--wheelhouse", str(tmp_path)]) == ExitCode.NO_GPU
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{why}: no wheel was tested.")


def test_no_wheel_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--wheelhouse", str(tmp_path)]) == ExitCode.NO_WHEEL
    assert "nothing was tested" in capsys.readouterr().out
    (tmp_path / NATIVE).touch()
    assert main(["universal-cu130", "--wheelhouse", str(tmp_path)]) == ExitCode.NO_WHEEL
    assert "No wheel of universal-cu130" in capsys.readouterr().out
    with pytest.raises(UsageError, match="No such wheel"):
        main(["--wheel", str(tmp_path / "absent.whl")])


def test_the_test_runs_with_the_wheels_python_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = raw_wheel(tmp_path, {}, name=UNIVERSAL)
    commands: list[list[str]] = []

    def show(command: list[Any], env: dict[str, str]) -> int:
        commands.append([*map(str, command)])
        assert env["PYTHONNOUSERSITE"] == "1"
        assert not {"PYTHONPATH", "PYTHONSAFEPATH"} & env.keys()
        Path(command[-1]).write_text(json.dumps({"headline": "FAILED (1 FAIL)\nmore"}))
        return int(ExitCode.FAILURES)

    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(smoketest_wheels, "local_gpus", lambda: ("9.0",))
    monkeypatch.setattr(smoketest_wheels, "make_clean_venv", lambda *arguments: Path("/venv/python"))
    monkeypatch.setattr(smoketest_wheels, "show", show)
    arguments = ["universal-cu128", "--wheelhouse", str(wheel.parent), "--quick", "--seed", "4"]
    assert main(arguments) == ExitCode.FAILURES
    report = Path(f"{wheel}.smoketest.json")
    assert commands[0][0] == "/venv/python"
    assert commands[0][2:] == ["--quick", "--seed=4", "--json", str(report)]
    assert f"{wheel.name}  FAILED (1 FAIL)\nwheels: 0 passed, 1 failed, 0 not run" in capsys.readouterr().out
    assert json.loads(report.read_text())["wheel"]["filename"] == wheel.name


def test_a_test_that_left_no_report_is_a_failure(tmp_path: Path) -> None:
    wheel, none = tmp_path / NATIVE, tmp_path / "none.json"
    assert conclude(wheel, 0, none).exit_code == ExitCode.FAILURES
    assert conclude(wheel, -6, none).line == "FAILED: the test ended with exit code -6"
    assert conclude(wheel, 20, None).line == "not tested: no GPU"
    assert conclude(wheel, 0, None).line == "imports only: nothing was computed"


def test_a_file_that_is_no_wheel_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sageattention-2.2.0-py3-none-any.whl"
    path.write_text("not a zip archive")
    assert main(["--import-only", "--wheel", str(path)]) not in (ExitCode.PASS, ExitCode.NO_WHEEL)
    assert "wheels: 0 only imported (nothing was computed), 1 failed, 0 not run" in capsys.readouterr().out


def test_wheels_and_their_targets() -> None:
    for name, expected in ((NATIVE, "cp312-cu130"), (UNIVERSAL, "universal-cu128")):
        label = WheelLabel.parse(name)
        assert [target.name for target in TARGETS.values() if belongs_to(label, target)] == [expected]


def test_our_wheel_gets_its_targets_torch_not_the_newest_that_it_allows(tmp_path: Path) -> None:
    target = TARGETS["universal-cu128"]
    assert torch_for(tmp_path / UNIVERSAL) == (f"torch=={target.torch}", target.torch_index)


@pytest.mark.parametrize(
    ("version", "requirements", "requirement", "index"),
    [
        ("2.2.0", [], "torch", None),
        ("2.2.0", ["numpy", "torch==2.8.*"], "torch==2.8.*", None),
        ("2.2.0+cu128torch2.8", ["torch"], "torch==2.8.*", "https://download.pytorch.org/whl/cu128"),
    ],
)
def test_another_projects_wheel_gets_what_it_names(
    tmp_path: Path, version: str, requirements: list[str], requirement: str, index: str | None
) -> None:
    lines = [f"Requires-Dist: {line}" for line in requirements]
    wheel = raw_wheel(tmp_path, {}, lines, name=f"x-{version}-cp39-cp39-linux_x86_64.whl")
    assert torch_for(wheel) == (requirement, index)


def test_which_python() -> None:
    assert python_for(WheelLabel.parse(NATIVE), "3.13") == "3.12"
    assert python_for(WheelLabel.parse(UNIVERSAL), None) == THIS
    assert python_for(WheelLabel.parse(UNIVERSAL), "3.13") == "3.13"
    with pytest.raises(UsageError, match=r"needs Python 3\.12 or later"):
        python_for(WheelLabel.parse("x-1-cp312-abi3-linux_x86_64.whl"), "3.11")


def test_what_this_machine_can_not_run() -> None:
    other = next(machine.name for machine in MACHINES if not machine.is_here)
    assert why_not_here(WheelLabel.parse("x-1-py3-none-any.whl")) == ""
    assert why_not_here(WheelLabel.parse("x-1-cp312-cp312-win_amd64.whl")) == "is for win_amd64"
    assert why_not_here(WheelLabel.parse(f"x-1-cp312-cp312-linux_{other}.whl")).startswith(
        f"is for {other}, and"
    )


def test_a_python_of_pyenv_stands_in_for_a_shim_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, lines in (("bin/python3.99", "exit 1"), ("versions/3.99.2/bin/python", "echo 3.99.2")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / path).chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert find_python("3.99") == tmp_path / "versions" / "3.99.2" / "bin" / "python"
    assert find_python("3.98") is None
    assert find_python(THIS) == Path(sys.executable)
    assert minor_of("3.12.1") == minor_of("3.12") == "3.12"
