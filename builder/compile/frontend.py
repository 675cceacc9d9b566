"""Runs the PEP 517 build of the source tree, and says why it failed; the compiler's output goes to a log."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.compile import guard
from builder.compile.progress import FileCost, Watcher
from builder.util.errors import CompileError, OutOfMemoryError
from builder.util.log import detail

_TAIL_LINES = 30
# The kernel ends a process that finds no memory with SIGKILL; g++, nvcc and shells each report it otherwise.
_NO_MEMORY = re.compile(
    r"signal 9\b|(?-i:\bKilled\b)|std::bad_alloc|out of memory|memory exhausted|cannot allocate memory|"
    r"memory allocation failure",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Compiled:
    """A finished PEP 517 build.

    Attributes:
        wheel: The wheel that the build backend wrote.
        log: Everything that the compilers printed.
        seconds: Wall time of the build.
        cpu_seconds: User and system time of the build's processes.
        peak_memory_bytes: Largest resident set of one process of the build.
        files: Cost of each step; empty if the tree does not report it.
    """

    wheel: Path
    log: Path
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    files: Mapping[str, FileCost]


def run_build(
    tree: Path,
    out_dir: Path,
    log: Path,
    env: Mapping[str, str],
    *,
    jobs: int,
    events: Path | None,
    echo: bool = False,
    interval_seconds: float | None = None,
) -> Compiled:
    """Build a wheel of a source tree with `python -m build`, without isolation.

    Args:
        tree: The patched source tree.
        out_dir: Where the wheel goes; must be empty.
        log: File that gets the compiler's output.
        env: The build's whole environment.
        jobs: Compiler processes at once; for the message where memory ran out.
        events: File that the tree appends its progress to; None for a tree that has none.
        echo: Print the compiler's output as well.
        interval_seconds: How often to print the state while nothing finishes; None is 1 s on a terminal,
            else 60 s.

    Raises:
        OutOfMemoryError: A compiler process was killed.
        CompileError: Any other failure.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", guard.__file__]  # the compilers are not to outlive this process
    command += [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    command += ["--outdir", str(out_dir), str(tree)]
    detail(f"+ {shlex.join(command)}")
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tree,
            env=dict(env),
            start_new_session=True,
        )
        watcher = Watcher(log, events, echo=echo, interval_seconds=interval_seconds)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        finally:
            watcher.stop()
    returncode = os.waitstatus_to_exitcode(status)
    process.returncode = returncode
    wheels = sorted(out_dir.glob("*.whl"))
    if returncode != 0:
        raise failure(log, returncode, jobs)
    if len(wheels) != 1:
        raise CompileError(f"The build wrote {len(wheels)} wheels instead of one.", f"The whole log: {log}")
    return Compiled(
        wheel=wheels[0],
        log=log,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * 1024,
        files=watcher.progress.done,
    )


def failure(log: Path, returncode: int, jobs: int) -> CompileError:
    """Return the error for a failed build: out of memory with its remedy, or the compiler's last lines.

    Args:
        log: The build's log.
        returncode: Exit status of the build; negative for a signal, as `subprocess` has it.
        jobs: Compiler processes that ran at once.
    """
    end = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    if returncode == -signal.SIGKILL or _NO_MEMORY.search(end):
        remedy = (
            f"Run again with fewer compiler processes (--jobs {max(1, jobs // 2)}; it ran {jobs}), "
            "or give the machine or container more memory."
            if jobs > 1
            else "One compiler process at a time was too many: give the machine or container more memory."
        )
        return OutOfMemoryError(
            f"A compiler process was killed: the machine ran out of memory.\n{end}", f"{remedy} Log: {log}"
        )
    how = f"exit status {returncode}" if returncode >= 0 else f"signal {-returncode}"
    return CompileError(f"The compiler failed ({how}).\n{end}", f"The whole log: {log}")
