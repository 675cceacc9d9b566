"""`python -m builder COMMAND`: what the nox sessions run, each in its own environment."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from builder.util.errors import BuilderError, UsageError
from builder.util.log import fail

_INTERRUPTED = 130


def _build(arguments: Sequence[str]) -> int:
    from builder.pipeline import build  # noqa: PLC0415
    from builder.target.options import parse_build_options  # noqa: PLC0415 - each command imports what it needs
    from builder.target.targets import find_target  # noqa: PLC0415

    name, *rest = arguments or [""]
    target = find_target(name)
    build(target, parse_build_options(rest, os.environ, prog=f"nox -s build-{name} --"))
    return 0


def _main_of(module: str) -> Callable[[Sequence[str]], int]:
    def run(arguments: Sequence[str]) -> int:
        return int(importlib.import_module(f"builder.{module}").main(list(arguments)))

    return run


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "build": _build,
    "smoketest": _main_of("check.smoketest_wheels"),
    "audit": _main_of("check.audit"),
    "reproduce": _main_of("reproduce"),
    "compatibility": _main_of("check.compatibility"),
    "index": _main_of("publish.index"),
    "release": _main_of("publish.release"),
    "outdated": _main_of("publish.outdated"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit status; that of the error class where it failed (builder/errors.py), 130 when interrupted.
    """
    signal.signal(signal.SIGTERM, _stop)
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    try:
        if name not in COMMANDS:
            raise UsageError(f"No command {name!r}.", f"Commands: {', '.join(COMMANDS)}.")
        return COMMANDS[name](rest)
    except BuilderError as error:
        fail(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        fail("interrupted; nothing was changed")
        return _INTERRUPTED


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
