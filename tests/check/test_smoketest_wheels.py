"""Which wheels this machine tests, with which Python and torch, and what comes of it all."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.check import smoketest_wheels as driver
from builder.check.smoketest_wheels import Ending, Trial, belongs_to, choose, summary, worst
from builder.smoketest.report.outcome import ExitCode
from builder.target.targets import load_targets
from builder.util.errors import UsageError
from builder.util.paths import ROOT
from builder.wheel.wheelfile import WheelName

TARGETS = load_targets()
PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "linux_x86_64")
NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"
STABLE = "sageattention-2.2.0+cu128.universal-cp310-abi3-linux_x86_64.whl"


def chosen(name: str, requirements: Sequence[str] = (), python: str | None = None) -> Trial | str:
    return choose(Path(name), requirements, TARGETS.values(), platforms=PLATFORMS, python=python)


def accepted(name: str, requirements: Sequence[str] = (), python: str | None = None) -> Trial:
    trial = chosen(name, requirements, python)
    assert isinstance(trial, Trial)
    return trial


def test_wheels_and_their_targets() -> None:
    mine = {name for name, target in TARGETS.items() if belongs_to(WheelName.parse(NATIVE), target)}
    assert mine == {"cp312-cu130"}
    mine = {name for name, target in TARGETS.items() if belongs_to(WheelName.parse(STABLE), target)}
    assert mine == {"abi3-cu128"}


def test_our_wheel_gets_its_targets_torch_not_the_newest_that_it_allows() -> None:
    target = TARGETS["abi3-cu128"]
    trial = chosen(STABLE, ["torch>=2.10"], python="3.12")
    assert trial == Trial(Path(STABLE), "3.12", f"torch=={target.torch}", target.torch_index)


def test_a_native_wheel_gets_its_own_python_whatever_is_asked() -> None:
    assert accepted(NATIVE, python="3.13").python == "3.12"


@pytest.mark.parametrize(
    ("name", "requirements", "requirement", "index"),
    [
        ("x-2.2.0-cp312-cp312-linux_x86_64.whl", [], "torch", None),
        ("x-2.2.0-cp312-cp312-linux_x86_64.whl", ["numpy", "torch==2.8.*"], "torch==2.8.*", None),
        ("x-2.2.0+cu128torch2.8-cp312-cp312-linux_x86_64.whl", ["torch"], "torch==2.8.*", "cu128"),
    ],
)
def test_another_projects_wheel_gets_what_it_names(
    name: str, requirements: list[str], requirement: str, index: str | None
) -> None:
    trial = accepted(name, requirements)
    assert trial.requirement == requirement
    assert trial.torch_index == (index and f"https://download.pytorch.org/whl/{index}")


def test_a_stable_wheel_is_tested_with_this_python() -> None:
    assert accepted(STABLE).python == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_this_machine_can_not_run() -> None:
    assert chosen("x-1-cp312-cp312-win_amd64.whl") == "is for win_amd64"
    assert chosen("x-1-cp312-cp312-manylinux_2_38_x86_64.whl") == "is for manylinux_2_38_x86_64"
    assert chosen("x-1-cp312-abi3-linux_x86_64.whl", python="3.11") == "needs Python 3.12 or later"
    assert isinstance(chosen("x-1-py3-none-any.whl"), Trial)


def ending(code: int, *, ran: bool = True, name: str = "a.whl") -> Ending:
    return Ending(Path(name), code, "line", ran)


@pytest.mark.parametrize(
    ("codes", "asked_for", "expected"),
    [
        ([0, 0], False, 0),
        ([0, 25, 1], False, 1),
        ([0, 22], False, 22),
        ([0, "skipped"], False, 0),
        ([0, "skipped"], True, 23),
        (["skipped"], False, 28),
    ],
)
def test_the_worst_ending_counts_and_a_skip_is_no_pass(
    codes: list[Any], asked_for: bool, expected: int
) -> None:
    endings = [ending(23, ran=False) if code == "skipped" else ending(code) for code in codes]
    assert worst(endings, asked_for=asked_for) == expected


def test_the_summary_counts_what_was_not_run() -> None:
    endings = [ending(0), ending(1), ending(23, ran=False, name="long name.whl")]
    lines = summary(endings, import_only=False)
    assert lines[-1] == "wheels: 1 passed, 1 failed, 1 not run"
    assert len({line.index("line") for line in lines[:3]}) == 1


def test_imports_alone_are_not_called_a_pass() -> None:
    assert "pass" not in summary([ending(0)], import_only=True)[-1]


def test_an_empty_wheelhouse_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert driver.main(["--wheelhouse", str(tmp_path)]) == ExitCode.NO_WHEEL
    assert "nothing was tested" in capsys.readouterr().out


def test_a_machine_without_a_gpu_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if driver.gpu_is_here():
        pytest.skip("this machine has a GPU")
    (tmp_path / NATIVE).touch()
    assert driver.main(["--wheelhouse", str(tmp_path)]) == ExitCode.NO_GPU
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert "no wheel was tested" in said[0]


def test_a_target_without_wheels_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NATIVE).touch()
    assert driver.main(["abi3-cu130", "--wheelhouse", str(tmp_path)]) == ExitCode.NO_WHEEL
    assert "No wheel of abi3-cu130" in capsys.readouterr().out


def test_a_wheel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such wheel"):
        driver.main(["--wheel", str(tmp_path / NATIVE)])


def test_a_wheel_that_is_none_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NATIVE).write_text("not a zip archive")
    code = driver.main(["--import-only", "--wheel", str(tmp_path / NATIVE)])
    assert code not in (ExitCode.PASS, ExitCode.NO_WHEEL)
    assert "wheels: 0 only imported (nothing was computed), 1 failed, 0 not run" in capsys.readouterr().out


def test_options_of_the_test_are_passed_on() -> None:
    options = driver._parser().parse_args(["cp312-cu130", "--quick", "--kernels", "sageattn", "--seed", "4"])
    assert options.target == "cp312-cu130"
    assert driver.passed_on(options) == ["--quick", "--kernels=sageattn", "--seed=4"]


def test_the_report_gets_the_wheels_name_and_digest(tmp_path: Path) -> None:
    wheel, report = tmp_path / NATIVE, tmp_path / "r.json"
    wheel.write_bytes(b"bytes")
    report.write_text(json.dumps({"headline": "FAILED (1 FAIL)\nmore", "exit_code": 1}))
    came = driver.conclude(wheel, 1, report)
    assert (came.exit_code, came.line) == (1, "FAILED (1 FAIL)")
    assert json.loads(report.read_text())["wheel"]["filename"] == NATIVE
    assert len(json.loads(report.read_text())["wheel"]["sha256"]) == 64


def test_a_test_that_left_no_report_is_a_failure(tmp_path: Path) -> None:
    wheel = tmp_path / NATIVE
    wheel.write_bytes(b"bytes")
    assert driver.conclude(wheel, 0, tmp_path / "none.json").exit_code == ExitCode.FAILURES
    assert (
        driver.conclude(wheel, -6, tmp_path / "none.json").line == "FAILED: the test ended with exit code -6"
    )
    assert driver.conclude(wheel, 20, None).line == "not tested: no GPU"
    assert driver.conclude(wheel, 0, None).line == "imports only: nothing was computed"


def test_nothing_but_the_venv_and_the_checkout_is_seen() -> None:
    seen = driver.clean_environment(
        {"PYTHONPATH": "/x", "PYTHONHOME": "/y", "VIRTUAL_ENV": "/z", "PATH": "/bin"}
    )
    assert seen == {"PYTHONPATH": str(ROOT), "PYTHONNOUSERSITE": "1", "PATH": "/bin"}
