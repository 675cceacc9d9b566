"""`python kill_tree.py COMMAND...`: runs a command; at the end no process of its tree is left.

The end is when the command has ended, on SIGTERM, or when our parent dies in any way. A build's processes
start sessions of their own; each one whose parent has gone becomes a child of this process (prctl(2),
PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# A compiler that gets SIGTERM removes its temporary files.
_GRACE_SECONDS = 5.0


def main(command: list[str]) -> int:
    """Run a command; returns its exit status, or as shells do 128 and the signal that ended it."""
    # Blocked and waited for, so that none is missed, whenever it arrives; the command gets them as ever.
    signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent = os.getppid()
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before PR_SET_PDEATHSIG
        return 1
    unblock = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, signals)
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=unblock)  # noqa: PLW1509
    while child.poll() is None and signal.sigwait(signals) == signal.SIGCHLD:
        pass
    status = child.poll()
    _end_all(child)
    if status is None:
        return 128 + signal.SIGTERM
    return status if status >= 0 else 128 - status


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """End the command as it expects it, and then whatever is left."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    while children := list(_children()):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _children() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # proc(5): the parent is the second field after the name, which may have any character in it.
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                yield int(stat.parent.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
