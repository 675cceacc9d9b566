"""Starts workers, follows their events, and turns a worker's death into a failed row.

No row can end the run: when a worker dies, the row that it was running has failed, and a new worker runs the
rest.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.smoketest.plan import FIRST_CALL, ROW_LIMIT_S, Options
from builder.smoketest.report import ExitCode, Row, Status
from builder.smoketest.run.worker import LOST_EXIT_CODE

MOST_WORKERS = 32
"""How many workers a run may use before it gives up the remaining rows."""
START_LIMIT_S = 900.0
"""How long a worker may take to import torch and the wheel: cold caches and busy machines are slow."""


@dataclass
class Run:
    """What the workers have reported so far; `running` is the id of the row that runs."""

    follow: Callable[[Row], None]
    environment: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    planned: dict[str, Row] = field(default_factory=dict)
    running: str = ""
    ending: ExitCode | None = None
    line: str = ""
    finished: bool = False
    workers: int = 0

    @property
    def all_rows(self) -> list[Row]:
        """The import rows, then those of the plan in its order; a row without a result did not run."""
        first = [row for row in self.rows.values() if row.id not in self.planned]
        return first + [self.rows.get(row_id, row) for row_id, row in self.planned.items()]

    def add(self, row: Row) -> None:
        """Add a row that has ended."""
        self.rows[row.id] = row
        self.running = ""
        self.follow(row)

    def take(self, event: dict[str, Any]) -> None:
        """Record what a worker says."""
        kind = event["event"]
        if kind == "environment":
            for row in map(Row.from_json, event["rows"]):
                if row.id not in self.rows:
                    self.add(row)
            self.environment = self.environment or event["values"]
            if event["ending"] is not None:
                self.ending, self.line = ExitCode(event["ending"]), event["line"]
        elif kind == "plan":
            self.planned = {values["id"]: Row.from_json(values) for values in event["rows"]}
        elif kind == "begin":
            self.running = str(event["id"])
        elif kind == "row":
            self.add(Row.from_json(event["row"]))
        elif kind == "end":
            self.finished = True


def supervise(options: Options, follow: Callable[[Row], None], worker: list[str] | None = None) -> Run:
    """Run all rows, with as many workers as needed.

    Args:
        follow: Called with each row as it ends.
        worker: Command of a worker, to which the order is added; the smoke test with this Python by default.
    """
    run = Run(follow)
    # By its path, and not with -m: a folder named sageattention where the user is would be imported.
    command = worker or [sys.executable, str(Path(__file__).resolve().parents[1]), "--worker"]
    why = ""
    while not run.finished and run.workers < MOST_WORKERS:
        run.workers += 1
        before = len(run.rows)
        why = _one_worker(options, run, command)
        if not run.finished and len(run.rows) == before:
            break
    if not run.finished:
        if run.ending is None and not run.planned:
            run.ending = ExitCode.SAGEATTENTION_NOT_IMPORTABLE
            run.line = f"the process that imports the wheel {why}"
        reason = f"given up: the last of {run.workers} processes {why}"
        run.planned = {row_id: replace(row, reason=reason) for row_id, row in run.planned.items()}
    return run


def _one_worker(options: Options, run: Run, command: list[str]) -> str:
    """Start a worker and follow it to its end; return how it ended, in words."""
    unavailable = {
        row.kernel: row.reason
        for row in run.rows.values()
        if row.group == FIRST_CALL and row.status is Status.NOT_APPLICABLE
    }
    read_end, write_end = os.pipe()
    order = {"options": asdict(options), "done": [*run.rows], "unavailable": unavailable, "events": write_end}
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            [*command, json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        timed_out = False
        try:
            for event in _events(read_end):
                if event is None:
                    timed_out = True
                    process.kill()
                    break
                run.take(event)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            os.close(read_end)
        code = process.wait()
        noise.seek(0)
        output = noise.read()[-4000:].decode(errors="replace")
    why = _how_it_ended(code, timed_out, output)
    if run.running:
        row = run.planned[run.running]
        run.add(replace(row, status=Status.FAIL, reason=f"the process {why}"))
    return why


def _events(descriptor: int) -> Iterator[dict[str, Any] | None]:
    """Yield a worker's events; None when none has come for too long."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        deadline = time.monotonic() + START_LIMIT_S
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                deadline = time.monotonic() + float(event.get("limit_s", ROW_LIMIT_S))
                yield event
    yield None


def _how_it_ended(code: int, timed_out: bool, output: str) -> str:
    if timed_out:
        return "took too long and was ended"
    if code == LOST_EXIT_CODE:
        return "lost the device"
    how = f"ended with exit code {code}"
    if code < 0:
        names = [one.name for one in signal.Signals if one == -code]
        how = f"was ended by {names[0] if names else f'signal {-code}'}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("[Aa]ssert|[Ee]rror", line)]
    last = (errors or lines or [""])[-1][:200]
    return f"{how}: {last}" if last else how
