"""What the builder prints: steps with their durations, lines, warnings, errors, and details when asked for.

Under GitHub Actions each step folds (`::group::`); elsewhere it is a heading.

Names and servers' answers get into what is printed. So of addresses only the public part is, control
characters are escaped, and no line is a workflow command but those from here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from builder.util.addresses import without_secrets

_ON_ACTIONS = os.environ.get("GITHUB_ACTIONS") == "true"
_settings = {"details": False}
_REDRAW = "\r\033[K"  # goes to the start of a terminal's line, and clears it
# Control characters but tab and line feed, those that change the direction of text, and what is not UTF-8.
_CONTROL = re.compile(
    rf"(?<!.){re.escape(_REDRAW)}|"
    r"[^\t\n -~\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]"
)
# "GitHub Docs, Workflow commands": `::name::` at the start of a line, or `##[name]` anywhere.
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)", re.MULTILINE)


def show_details(shown: bool) -> None:
    """Set whether `detail` prints, as `--verbose` asks; it does not until then."""
    _settings["details"] = shown


def detail(line: str) -> None:
    """Print one line under `--verbose`: a command, or what one said."""
    if _settings["details"]:
        say(line)


def say(line: str = "") -> None:
    """Print one line at once."""
    _print(printable(line))


def warn(line: str) -> None:
    """Print a warning to standard error."""
    _complain("warning", line)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and say how long it took (seconds) when it ends.

    Args:
        title: What is being done, as a participle: "Repairing wheel".
    """
    _print(f"::group::{printable(title)}" if _ON_ACTIONS else f"\n{printable(title)}...")
    start = time.monotonic()
    done = "failed"
    try:
        yield
        done = "done"
    finally:
        say(f"  {done} in {time.monotonic() - start:.1f} s")
        if _ON_ACTIONS:
            _print("::endgroup::")


@dataclass
class Durations:
    """Wall time of each step, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step as `step` does, and keep its time under a short name."""
        start = time.monotonic()
        with step(title):
            yield
        self.seconds[name] = time.monotonic() - start


def fail(line: str) -> None:
    """Print an error to standard error."""
    _complain("error", line)


def printable(text: str) -> str:
    """Return a text as it is printed: addresses without secrets, no control characters or commands."""
    shown = escaped(without_secrets(text))
    return _COMMAND.sub(r"\g<0> ", shown) if _ON_ACTIONS else shown


def escaped(text: str) -> str:
    """Return a text with control characters, and what is not UTF-8, as Python's escapes."""
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0] if match[0] == _REDRAW else match[0].encode("unicode_escape").decode()


def _complain(kind: str, text: str) -> None:
    shown = printable(text)
    if _ON_ACTIONS:
        # An annotation is one line, with its own escapes.
        _print(f"::{kind}::" + shown.replace("%", "%25").replace("\n", "%0A"), sys.stderr)
    else:
        _print(f"{kind}: {shown}", sys.stderr)


def _print(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
