"""Runs the PEP 517 build of the patched tree, shows how far it is, and says why it failed.

The compiler's whole output goes to a log file. Progress comes from the events that the patched tree's
`build_ext` appends to a file (one JSON object a line), or, for an unpatched tree, from ninja's own
"[done/all]" lines in the log.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.util.errors import CompileError, OutOfMemoryError
from builder.util.log import say

_TAIL_LINES = 30
_NINJA_STATUS = re.compile(r"^\[(\d+)/(\d+)\] (.*)$")
_KILLED = re.compile(
    r"killed by signal 9|signal 9|Killed signal terminated program|\bKilled\b|std::bad_alloc|"
    r"[Oo]ut of memory|virtual memory exhausted|cannot allocate memory",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FileCost:
    """What one compile or link step took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time of the step's processes; 0 where another process ran them.
        peak_memory_bytes: Largest resident set of one of its processes; 0 where not known.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A finished PEP 517 build.

    Attributes:
        wheel: The wheel that the build backend wrote.
        log: Everything that the compilers printed.
        seconds: Wall time of the build.
        cpu_seconds: User and system time of the build's processes.
        peak_memory_bytes: Largest resident set of one process of the build.
        files: Cost of each step, where the tree reports it.
    """

    wheel: Path
    log: Path
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    files: dict[str, FileCost] = field(default_factory=dict)


@dataclass
class Progress:
    """Which steps of a build are planned, running and done."""

    planned: list[str] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    done: dict[str, FileCost] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, object]) -> str | None:
        """Take one event of the build.

        Args:
            event: A decoded line of the events file.

        Returns:
            A line to show, or None where the event is no news.
        """
        kind, name = event.get("event"), str(event.get("file", ""))
        if kind == "plan":
            files = event.get("files")
            self.planned = [str(file) for file in files] if isinstance(files, list) else []
            return None
        if kind == "start":
            self.running[name] = time.monotonic()
            return None
        if kind != "done":
            return None
        self.running.pop(name, None)
        if not event.get("ok", False):
            self.failed[name] = str(event.get("error", ""))
            return f"{self._count()} {name}: failed"
        cost = FileCost(
            seconds=_number(event.get("seconds")),
            cpu_seconds=_number(event.get("cpu_seconds")),
            peak_memory_bytes=int(_number(event.get("peak_memory_bytes"))),
        )
        self.done[name] = cost
        return f"{self._count()} {name} ({cost.seconds:.0f} s)"

    def status(self, elapsed_seconds: float) -> str:
        """One line: files done of all, elapsed time, the files in work."""
        work = ", ".join(Path(name).name for name in self.running) or "waiting"
        return f"  {self._count()} {_clock(elapsed_seconds)} elapsed, in work: {work}"

    def _count(self) -> str:
        return f"[{len(self.done)}/{max(len(self.planned), len(self.done))}]"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


class _Follower:
    """Reads what was appended to a file since the last look, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, for an error message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def was_out_of_memory(log_tail: str, returncode: int) -> bool:
    """Whether a failed build shows the signs of a compiler killed for memory.

    Args:
        log_tail: The log's last lines.
        returncode: Exit status of the build; negative for a signal, as `subprocess` gives it.
    """
    return returncode == -signal.SIGKILL or bool(_KILLED.search(log_tail))


def failure(log: Path, returncode: int, jobs: int) -> CompileError:
    """The error for a failed build: out of memory with its remedy, or the compiler's last lines.

    Args:
        log: The build's log.
        returncode: Exit status of the build.
        jobs: Compiler processes that ran at once.
    """
    end = tail(log)
    if was_out_of_memory(end, returncode):
        remedy = (
            f"Run again with fewer compiler processes (--jobs {max(1, jobs // 2)}; it ran {jobs}), "
            "or give the machine or container more memory."
            if jobs > 1
            else "One compiler process at a time was too many: give the machine or container more memory."
        )
        return OutOfMemoryError(
            f"A compiler process was killed: the machine ran out of memory.\n{end}", f"{remedy} Log: {log}"
        )
    return CompileError(f"The compiler failed (exit status {returncode}).\n{end}", f"The whole log: {log}")


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
        echo: Show the compiler's output as well.
        interval_seconds: How often the state is printed while nothing finishes; 1 s on a terminal, else 60 s.

    Raises:
        OutOfMemoryError: A compiler process was killed.
        CompileError: Any other failure.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--outdir", str(out_dir), str(tree)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tree,
            env=dict(env),
            start_new_session=True,
        )
        progress = Progress()
        watcher = _Watcher(progress, log, events, _Follower(log) if echo else None, interval_seconds)
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
        raise CompileError(f"The build wrote {len(wheels)} wheels, expected one.", f"The whole log: {log}")
    return Compiled(
        wheel=wheels[0],
        log=log,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * 1024,
        files=dict(progress.done),
    )


class _Watcher(threading.Thread):
    """Prints a build's progress until it is stopped."""

    def __init__(
        self,
        progress: Progress,
        log: Path,
        events: Path | None,
        echoed: _Follower | None,
        interval_seconds: float | None,
    ) -> None:
        super().__init__(daemon=True)
        self._progress = progress
        self._source = _Follower(events or log)
        self._is_events = events is not None
        self._echoed = echoed
        self._start = time.monotonic()
        self._tty = sys.stdout.isatty()
        self._interval = interval_seconds or (1.0 if self._tty else 60.0)
        self._ended = threading.Event()

    def run(self) -> None:
        shown = time.monotonic()
        while not self._ended.wait(0.5):
            if self._drain() or time.monotonic() - shown >= self._interval:
                shown = time.monotonic()
                self._show_status()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._drain()

    def _show_status(self) -> None:
        line = self._progress.status(time.monotonic() - self._start)
        if self._tty:
            print(f"\r\033[K{line[:110]}", end="", flush=True)
        else:
            say(line)

    def _drain(self) -> bool:
        for line in self._echoed.lines() if self._echoed else ():
            say(line)
        news = False
        for line in self._source.lines():
            event = json.loads(line) if self._is_events else _ninja_event(line)
            if event is None:
                continue
            shown = self._progress.take(event)
            if shown:
                say(("\r\033[K" if self._tty else "") + f"  {shown}")
                news = True
        return news and self._tty


def _ninja_event(line: str) -> dict[str, object] | None:
    match = _NINJA_STATUS.match(line)
    if not match:
        return None
    object_file = re.search(r"-o (\S+\.o)\b", match[3])
    return {"event": "done", "file": object_file[1] if object_file else match[3][:60], "ok": True}
