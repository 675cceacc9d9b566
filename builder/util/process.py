"""Runs commands; with `--verbose` each command and its output are shown."""

from __future__ import annotations

import ctypes
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import BuilderError
from builder.util.log import detail

COMMAND_SECONDS = 60  # for a program that only answers a question: a compiler's version, git


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int  # negative: the signal that ended it
    output: str  # standard output
    errors: str  # standard error

    @property
    def ending(self) -> str:
        """How it ended: `status 2`, or `signal 9`."""
        return f"status {self.status}" if self.status >= 0 else f"signal {-self.status}"

    @property
    def lines(self) -> list[str]:
        """All lines of its output that are not blank, standard error last."""
        return [line for line in (*self.output.splitlines(), *self.errors.splitlines()) if line.strip()]

    def last_lines(self, count: int = 10) -> str:
        """The last lines of its output, each on a line of its own and indented, to end a message with."""
        return "".join(f"\n    {line}" for line in self.lines[-count:])


class CommandError(BuilderError):
    """A command that can't be started, does not end in time, or ends with a status other than 0."""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str = "",
    timeout_seconds: float | None = COMMAND_SECONDS,
    check: bool = True,
) -> Finished:
    """Run a command and return its output; `env` is its whole environment, `text` its standard input.

    Raises:
        CommandError: It can't be started, takes too long, or (with `check`) fails; the message holds its
            last lines. Catch it to say what that means, as an error of the step.
    """
    detail(f"+ {shlex.join(map(str, command))}")
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except OSError as error:
        raise CommandError(f"{name} can't be run: {error.strerror or error}.") from error
    except subprocess.TimeoutExpired:
        raise CommandError(f"{name} did not end within {timeout_seconds:g} s.") from None
    finished = Finished(done.returncode, done.stdout, done.stderr)
    for line in finished.lines:
        detail(f"  {line}")
    if check and finished.status != 0:
        raise CommandError(f"{name} failed ({finished.ending}):{finished.last_lines()}")
    return finished


def output_of(command: Sequence[str | Path]) -> str | None:
    """Return what a command prints on its standard output, stripped; None where it fails in any way."""
    try:
        return run(command).output.strip()
    except CommandError:
        return None


def show(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> int:
    """Run a command whose output goes to the user as it comes, and return its exit status."""
    detail(f"+ {shlex.join(map(str, command))}")
    sys.stdout.flush()
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False).returncode


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent dies (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
