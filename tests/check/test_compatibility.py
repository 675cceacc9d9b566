"""The command that tries wheels with every torch and Python."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from made_up_wheels import NATIVE, UNIVERSAL, UNIVERSAL_ARM, make_ours

from builder.check.compatibility import main
from builder.check.matrix import NOTHING_TESTED
from builder.target.machines import MACHINES
from builder.util.errors import UsageError


def test_no_abi3_wheel_is_said_and_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = next(machine.name for machine in MACHINES if not machine.is_here)
    make_ours(tmp_path, NATIVE, UNIVERSAL if other == "x86_64" else UNIVERSAL_ARM)
    assert main(["--wheelhouse", str(tmp_path)]) == NOTHING_TESTED
    said = capsys.readouterr().out
    assert f"is for {other}, and this machine is {platform.machine()}: not tested" in said
    assert "nothing was tested" in said


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
