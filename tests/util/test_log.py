"""What is printed, and where: steps fold under GitHub Actions, and are headings elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from builder.util.log import Durations, detail, say, step
from builder.util.paths import ROOT

SECRET = "https://me:hush@example.org/a.zip?token=hush"
HOSTILE = f"{SECRET}\x1b[2J\u202e\udcff\n  ::set-env name=a::b ##[error]c"
CODE = """
from builder.util.log import fail, say, step, warn
with step("Repairing"): say("  half way")
warn("careful")
fail("no")
"""


def printed(actions: str) -> tuple[str, str]:
    env = {"GITHUB_ACTIONS": actions, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, check=True, capture_output=True, text=True)
    return re.sub(r"\d+\.\d", "0.0", done.stdout), done.stderr


def test_on_a_terminal_a_step_is_a_heading() -> None:
    assert printed("") == ("\nRepairing...\n  half way\n  done in 0.0 s\n", "warning: careful\nerror: no\n")


def test_on_github_actions_a_step_folds_and_warnings_are_marked() -> None:
    assert printed("true") == (
        "::group::Repairing\n  half way\n  done in 0.0 s\n::endgroup::\n",
        "::warning::careful\n::error::no\n",
    )


@pytest.mark.parametrize("actions", ["", "true"])
@pytest.mark.parametrize("function", ["say", "warn", "fail", "step"])
def test_names_and_answers_from_outside_are_printed_without_effect(function: str, actions: str) -> None:
    code = f"from builder.util.log import *\nwith_step = {function}({HOSTILE!a})"
    code += "\nwith with_step: pass" if function == "step" else ""
    env = {"GITHUB_ACTIONS": actions, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "hush" not in said
    assert said.isascii()
    assert said.replace("\n", "").isprintable()
    if actions:
        assert "##[" not in said
        commands = re.findall(r"^\s*::([\w-]+)", said, re.MULTILINE)
        assert set(commands) <= {"group", "endgroup", "warning", "error"}


def test_a_terminals_line_can_be_drawn_again(capsys: pytest.CaptureFixture[str]) -> None:
    say("\r\033[K  90%\r\033[K")
    assert capsys.readouterr().out == "\r\033[K  90%\\r\\x1b[K\n"


def test_a_step_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), step("Repairing"):
        raise ValueError("broken")
    assert re.search(r"  failed in \d+\.\d s\n$", capsys.readouterr().out)


def test_durations_are_kept_by_name() -> None:
    durations = Durations()
    with durations.step("repair", "Repairing"):
        time.sleep(0.02)
    assert list(durations.seconds) == ["repair"]
    assert durations.seconds["repair"] >= 0.02


def test_details_are_not_printed_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    detail("a command")
    assert capsys.readouterr().out == ""
