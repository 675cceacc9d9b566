"""What comes of smoke-testing wheels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.check import smoketest_wheels as driver
from builder.check.smoketest_wheels import Ending, summary, worst
from builder.smoketest.report.outcome import ExitCode
from builder.util.errors import UsageError

NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"


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


def test_nothing_but_the_venv_is_seen() -> None:
    seen = driver.clean_environment(
        {"PYTHONPATH": "/x", "PYTHONHOME": "/y", "VIRTUAL_ENV": "/z", "PATH": "/bin"}
    )
    assert seen == {"PYTHONNOUSERSITE": "1", "PATH": "/bin"}
