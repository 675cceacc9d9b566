"""What the builder prints: steps with their durations, lines, warnings, errors, and details when asked for.

Under GitHub Actions each step folds (`::group::`); elsewhere it is a heading. Of an address it prints no user
name, password, query or fragment: these may be secrets.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ON_ACTIONS = os.environ.get("GITHUB_ACTIONS") == "true"
_settings = {"details": False}
# Quotes end an address in a text, but not in its password.
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://(?:[^\s/?#]*@)?[^\s'\"<>`]*", re.IGNORECASE)
_HOST = re.compile(r"([\w.-]*|\[[\w:.%]+\])(:\d*)?")


def public_address(address: str) -> str:
    """Return the scheme, host, port and path of an address: `https://example.org/a.zip`.

    Of a malformed one, in which a password may be anywhere, only the scheme is left.
    """
    scheme, _, rest = address.partition("://")
    place, *more = re.split(r"[?#]", rest, maxsplit=1)
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None or "@" in "".join(more):
        return f"{scheme}://***"
    return f"{scheme}://{host}{slash}{path}"


def without_secrets(text: str) -> str:
    """Return a text with every address in it as `public_address` has it."""

    def replacement(match: re.Match[str]) -> str:
        address = match[0].rstrip(".,;:!?)]}")
        return public_address(address) + match[0][len(address) :]

    return _ADDRESS.sub(replacement, text)


def show_details(shown: bool) -> None:
    """Set whether `detail` prints, as `--verbose` asks; it does not until then."""
    _settings["details"] = shown


def detail(line: str) -> None:
    """Print one line under `--verbose`: a command, or its output."""
    if _settings["details"]:
        say(line)


def say(line: str = "") -> None:
    """Print one line at once."""
    print(without_secrets(line), flush=True)


def warn(line: str) -> None:
    """Print a warning to standard error."""
    _complain("warning", line)


def fail(line: str) -> None:
    """Print an error to standard error."""
    _complain("error", line)


def counted(number: int, noun: str, plural: str = "s") -> str:
    """Return a number with its noun: `1 miss`, `2 misses`."""
    return f"{number} {noun}{plural * (number != 1)}"


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step such as "Repairing wheel", and say how long it took when it ends."""
    say(f"::group::{title}" if _ON_ACTIONS else f"\n{title}...")
    start = time.monotonic()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        say(f"  {outcome} in {time.monotonic() - start:.1f} s")
        if _ON_ACTIONS:
            say("::endgroup::")


def _complain(kind: str, text: str) -> None:
    line = without_secrets(text)
    if _ON_ACTIONS:
        # An annotation is one line, with its own escapes.
        print(f"::{kind}::" + line.replace("%", "%25").replace("\n", "%0A"), file=sys.stderr, flush=True)
    else:
        print(f"{kind}: {line}", file=sys.stderr, flush=True)
