"""Commands are run in one way: what they say comes back, and under --verbose is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.util.log import show_details
from builder.util.process import CommandError, run, show


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def verbose() -> Iterator[None]:
    show_details(True)
    yield
    show_details(False)


def test_a_command_gets_its_input_environment_and_folder(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read(), os.environ['WHAT'], os.getcwd())"
    done = run(python(code), text="in", env={**os.environ, "WHAT": "is it"}, cwd=tmp_path)
    assert (done.status, done.output) == (0, f"in is it {tmp_path}\n")


def test_a_failure_is_an_error_with_its_last_lines() -> None:
    code = "import sys; print('first\\n\\nsecond'); print('third', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandError) as caught:
        run(python(code))
    name = Path(sys.executable).name
    assert caught.value.message == f"{name} failed (status 3):\n    first\n    second\n    third"
    done = run(python(code), check=False)
    assert (done.status, done.last_lines(2)) == (3, "\n    second\n    third")


def test_a_signal_is_named_and_bytes_that_are_not_text_do_no_harm() -> None:
    code = "import os, sys; sys.stdout.buffer.write(b'\\xff'); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    done = run(python(code), check=False)
    assert (done.ending, done.output) == ("signal 9", "\N{REPLACEMENT CHARACTER}")


def test_a_command_that_does_not_start_or_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^none can't be run: No such file or directory\.$"):
        run([tmp_path / "none"])
    with pytest.raises(CommandError, match=r"did not end within 0\.2 s\.$"):
        run(python("import time; time.sleep(60)"), timeout_seconds=0.2)


def test_a_shown_command_speaks_for_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert show(python("print('hello'); raise SystemExit(4)")) == 4
    assert capfd.readouterr().out == "hello\n"


@pytest.mark.usefixtures("verbose")
def test_commands_and_what_they_say_are_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    run(python("import sys; print('said'); print('warned', file=sys.stderr)"))
    show(["true", "--index", "https://me:secret@example.org/simple", "a b"])
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"+ {sys.executable} -c 'import sys;")
    assert lines[1:] == ["  said", "  warned", "+ true --index https://example.org/simple 'a b'"]
