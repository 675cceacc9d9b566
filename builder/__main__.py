"""`python -m builder COMMAND`: what the nox sessions run, each in its own environment."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType

from builder.util.errors import BuilderError, UsageError
from builder.util.log import fail
from builder.util.process import end_with_parent

# Each command's module, which is imported only for it: it may need what other commands' environments lack.
COMMANDS = {
    "build": "build",
    "reproduce": "reproduce",
    "smoketest": "check.smoketest_wheels",
    "compatibility": "check.compatibility",
    "audit": "check.audit",
    "index": "publish.index",
    "release": "publish.release",
    "outdated": "publish.outdated",
}
_INTERRUPTED = 130
# What the disk or the rights of a folder can cause wherever something is written.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Where the command fails, that is the exit code of the error's class (`builder.util.errors`); 130 where
    it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that the terminal can't show
    signal.signal(signal.SIGTERM, _stop)
    if "NOX_CURRENT_SESSION" in os.environ:
        end_with_parent()  # whoever ends nox alone means its session
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    try:
        if name not in COMMANDS:
            raise UsageError(f"No command {name!r}.", f"Commands: {', '.join(COMMANDS)}.")
        try:
            command = importlib.import_module(f"builder.{COMMANDS[name]}")
        except ModuleNotFoundError as error:
            message = f"{name} needs the package {error.name}, which is not installed."
            raise UsageError(message, f"Run it as the nox session {name}, which installs it.") from None
        return int(command.main(rest))
    except BuilderError as error:
        fail(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        place = f"{error.filename}: " if error.filename else "A file can't be written: "
        fail(f"{place}{error.strerror}\n  Make room there, or let the folder be written.")
        return BuilderError.exit_code
    except KeyboardInterrupt:
        fail("interrupted")
        return _INTERRUPTED


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
