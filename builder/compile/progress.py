"""Shows how far a build is, and keeps what each of its steps cost.

Progress comes from the events that the patched tree's `build_ext` appends to a file (one JSON object a
line), or, for an unpatched tree, from ninja's own "[done/all]" lines in the log.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.util.log import say

_NINJA_STATUS = re.compile(r"^\[(\d+)/(\d+)\] (.*)$")


@dataclass(frozen=True)
class FileCost:
    """What one compile or link step cost.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time of the step's processes; 0 if another process ran them.
        peak_memory_bytes: Largest resident set of one of its processes; 0 if not known.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


@dataclass
class Progress:
    """Which steps of a build are planned, running and done."""

    planned: list[str] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    done: dict[str, FileCost] = field(default_factory=dict)

    def take(self, event: Mapping[str, object]) -> str | None:
        """Record one event of the build, and return a line to show; None if there is nothing to show.

        Args:
            event: A decoded line of the events file.
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
            return f"{self._count()} {name}: failed"
        cost = FileCost(
            seconds=_number(event.get("seconds")),
            cpu_seconds=_number(event.get("cpu_seconds")),
            peak_memory_bytes=int(_number(event.get("peak_memory_bytes"))),
        )
        self.done[name] = cost
        return f"{self._count()} {name} ({cost.seconds:.0f} s)"

    def status(self, elapsed_seconds: float) -> str:
        """Return one line: files done of all, elapsed time, the files in work."""
        work = ", ".join(Path(name).name for name in self.running) or "waiting"
        return f"  {self._count()} {_clock(elapsed_seconds)} elapsed, in work: {work}"

    def _count(self) -> str:
        return f"[{len(self.done)}/{max(len(self.planned), len(self.done))}]"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Follower:
    """Reads a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """Return the whole lines that were appended since the last call."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()


class Watcher(threading.Thread):
    """Prints a build's progress until it is stopped.

    Args:
        log: File with the compiler's output.
        events: File that the tree appends its progress to; None for a tree that has none.
        echo: Print the compiler's output as well.
        interval_seconds: How often to print the state while nothing finishes; None is 1 s on a terminal,
            else 60 s.
    """

    def __init__(
        self, log: Path, events: Path | None, *, echo: bool = False, interval_seconds: float | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.progress = Progress()
        self._source = Follower(events or log)
        self._is_events = events is not None
        self._echoed = Follower(log) if echo else None
        self._start = time.monotonic()
        self._tty = sys.stdout.isatty()
        self._interval = interval_seconds or (1.0 if self._tty else 60.0)
        self._ended = threading.Event()

    def run(self) -> None:
        """Print until `stop` is called."""
        shown = time.monotonic()
        while not self._ended.wait(0.5):
            if self._drain() or time.monotonic() - shown >= self._interval:
                shown = time.monotonic()
                self._show_status()

    def stop(self) -> None:
        """Print what is new, and end."""
        self._ended.set()
        self.join()
        self._drain()

    def _show_status(self) -> None:
        line = self.progress.status(time.monotonic() - self._start)
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
            shown = self.progress.take(event)
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
