"""A process that has one copy of SageAttention loaded, and answers JSON with JSON."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ROW_TIMEOUT_S = 120.0
MOST_CRASHES = 2
"""A row that ended its process this often is not tried again."""


class Worker:
    """A process that has one copy loaded. A crash or a hang ends it; the next question starts another."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.command = command
        self.name = name
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str] = queue.Queue()
        self.crashes: Counter[str] = Counter()
        self.errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def ask(self, request: Mapping[str, Any], timeout_s: float = ROW_TIMEOUT_S) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Returns:
            The answer; with `error` where the copy raised, or its process ended or hung.
        """
        name = request.get("row", {}).get("name", "")
        if self.crashes[name] >= MOST_CRASHES:
            return {"error": f"not tried: it ended the process {MOST_CRASHES} times before"}
        process = self.process or self._start()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self.lines.get(timeout=timeout_s)
        except queue.Empty:
            self.crashes[name] += 1
            self.end()
            return {"error": f"no answer within {timeout_s:g} s"}
        except OSError:
            line = ""
        if not line:
            status = process.wait()
            words = self._last_words()
            self.crashes[name] += 1
            self.end()
            return {"error": f"its process ended with status {status}: {words}"}
        reply: dict[str, Any] = json.loads(line)
        if "lost" in reply:
            self.crashes[name] += 1
            self.end()
        return reply

    def _start(self) -> subprocess.Popen[str]:
        self.errors.seek(0)
        self.errors.truncate()
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()
        return self.process

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def _last_words(self) -> str:
        self.errors.seek(0)
        words = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return words[-1][:200] if words else "it said nothing"

    def end(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
