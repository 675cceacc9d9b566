"""What the builder prints: steps with their durations, lines, warnings, errors, and details when asked for.

Under GitHub Actions each step folds (`::group::`); elsewhere it is a heading.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_ON_ACTIONS = os.environ.get("GITHUB_ACTIONS") == "true"
_settings = {"details": False}


def show_details(shown: bool) -> None:
    """Set whether `detail` prints, as `--verbose` asks; it does not until then."""
    _settings["details"] = shown


def detail(line: str) -> None:
    """Print one line under `--verbose`: a command, or what one said."""
    if _settings["details"]:
        say(line)


def say(line: str = "") -> None:
    """Print one line at once."""
    print(line, flush=True)


def warn(line: str) -> None:
    """Print a warning to standard error."""
    prefix = "::warning::" if _ON_ACTIONS else "warning: "
    print(prefix + line, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and say how long it took (seconds) when it ends.

    Args:
        title: What is being done, as a participle: "Repairing wheel".
    """
    say(f"::group::{title}" if _ON_ACTIONS else f"\n{title}...")
    start = time.monotonic()
    done = "failed"
    try:
        yield
        done = "done"
    finally:
        say(f"  {done} in {time.monotonic() - start:.1f} s")
        if _ON_ACTIONS:
            say("::endgroup::")


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
    prefix = "::error::" if _ON_ACTIONS else "error: "
    print(prefix + line, file=sys.stderr, flush=True)
