"""The commands: how they end, and what a user sees of a mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from builder.__main__ import COMMANDS, main
from builder.util.files import ROOT


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "error: No command ''.\n  Commands: build, reproduce, smoketest,"),
        (["bild"], 2, "error: No command 'bild'."),
        (["build"], 2, "error: No target ''.\n  Targets: cp311-cu128,"),
        (["build", "cp399-cu130"], 2, "error: No target 'cp399-cu130'."),
        (["build", "cp312-cu130", "--job", "3"], 2, "See nox -s build-cp312-cu130 -- --help."),
        (["build", "cp312-cu130", "--arch", "7.0"], 10, "error: --arch 7.0: the target has no such"),
        (["reproduce", "cp312-cu130", "--job", "3"], 2, "See nox -s reproduce-cp312-cu130 -- --help."),
    ],
)
def test_a_mistake_is_one_error_with_the_exit_code_of_its_kind(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help(name: str) -> None:
    target = ["cp312-cu130"] if name in {"build", "reproduce"} else []
    command = [sys.executable, "-m", "builder", name, *target, "--help"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: nox -s ")


def test_a_command_outside_its_environment_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "github", None)
    for module in ("release", "github_api"):
        monkeypatch.delitem(sys.modules, f"builder.publish.{module}", raising=False)
    assert main(["release"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: release needs the package github, which is not installed.\n  Run it as the nox"
    )


def as_a_command(body: str) -> list[str]:
    """A Python that runs a function of this body as a command of the builder."""
    code = (
        "import os, signal, sys, time, types; import builder.__main__ as commands\n"
        # A shell's background job starts with the signal ignored, and so does all that it runs.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def main(arguments): {body}\n"
        "sys.modules['builder.made_up'] = types.SimpleNamespace(main=main)\n"
        "commands.COMMANDS['made up'] = 'made_up'\n"
        "sys.exit(commands.main(['made up']))"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 130, "error: interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "error: interrupted\n"),
        ("os.write(os.open('/dev/full', os.O_WRONLY), b'x')", 1, "error: A file can't be written: No space"),
        ("open('/nowhere/x', 'w')", 1, "Traceback"),
    ],
)
def test_what_ends_a_command_is_said_in_one_error(body: str, code: int, said: str) -> None:
    done = subprocess.run(as_a_command(body), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(said)


def test_a_command_ends_with_the_nox_that_started_it() -> None:
    nox = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", nox, *as_a_command("print('waits', flush=True); time.sleep(60)")]
    env, pipe = {**os.environ, "NOX_CURRENT_SESSION": "build"}, subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"waits\n"
        started.kill()
        # The pipe ends when the command has, too.
        assert started.communicate(timeout=10)[1] == b"error: interrupted\n"
