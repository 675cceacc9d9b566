"""Starts workers, follows their events, and turns a worker's death into a failed row.

No row can end the run: when a worker dies, the row that it was running has failed, and a new worker runs the
rest.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.smoketest.plan import FIRST_CALL, ROW_LIMIT_S, Options
from builder.smoketest.report.outcome import ExitCode, Row, Status
from builder.smoketest.run.worker import LOST_EXIT_CODE, Order

MOST_WORKERS = 32
"""How many workers a run may use before it gives up the remaining rows."""
START_LIMIT_S = 900.0
"""How long a worker may take to import torch and the wheel: cold caches and busy machines are slow."""


@dataclass
class Run:
    """What the workers have reported so far."""

    environment: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    planned: dict[str, Row] = field(default_factory=dict)
    ending: ExitCode | None = None
    line: str = ""
    finished: bool = False
    workers: int = 0

    @property
    def all_rows(self) -> list[Row]:
        """The import rows, then those of the plan in its order; a row without a result did not run."""
        first = [row for row in self.rows.values() if row.id not in self.planned]
        return first + [self.rows.get(row_id, row) for row_id, row in self.planned.items()]


def supervise(options: Options, follow: Callable[[Row], None], worker: list[str] | None = None) -> Run:
    """Run all rows, with as many workers as needed.

    Args:
        follow: Called with each row as it ends.
        worker: Command of a worker, to which the order is added; the smoke test with this Python by default.
    """
    run = Run()
    # By its path, and not with -m: a folder named sageattention where the user is would be imported.
    command = worker or [sys.executable, str(Path(__file__).resolve().parents[1]), "--worker"]
    why = ""
    while not run.finished and run.workers < MOST_WORKERS:
        run.workers += 1
        before = len(run.rows)
        why = _one_worker(options, run, follow, command)
        if not run.finished and len(run.rows) == before:
            break
    if not run.finished:
        if run.ending is None and not run.planned:
            run.ending = ExitCode.SAGEATTENTION_NOT_IMPORTABLE
            run.line = f"the process that imports the wheel {why}"
        run.planned = {
            row_id: replace(row, reason=f"given up: the last of {run.workers} processes {why}")
            for row_id, row in run.planned.items()
        }
    return run


def _one_worker(options: Options, run: Run, follow: Callable[[Row], None], command: list[str]) -> str:
    """Start a worker and follow it to its end; return how it ended, in words."""
    unavailable = {
        row.kernel: row.reason
        for row in run.rows.values()
        if row.group == FIRST_CALL and row.status is Status.NOT_APPLICABLE
    }
    read_end, write_end = os.pipe()
    order = Order(options, tuple(run.rows), unavailable, write_end)
    begun = ""
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            [*command, order.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
            pass_fds=(write_end,),
        )
        os.close(write_end)
        timed_out = False
        try:
            for event in _events(read_end, START_LIMIT_S):
                if event is None:
                    timed_out = True
                    process.kill()
                    break
                begun = _take(event, run, follow, begun)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            os.close(read_end)
        code = process.wait()
        noise.seek(0)
        said = noise.read()[-4000:].decode(errors="replace")
    why = _how_it_ended(code, timed_out, said)
    if begun:
        row = run.planned[begun]
        failed = replace(row, status=Status.FAIL, reason=f"the process {why}")
        run.rows[begun] = failed
        follow(failed)
    return why


def _events(descriptor: int, limit_s: float) -> Iterator[dict[str, Any] | None]:
    """Yield a worker's events; None when none has come for too long."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        deadline = time.monotonic() + limit_s
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                yield None
                return
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return
            rest += chunk
            while b"\n" in rest:
                line, _, rest = rest.partition(b"\n")
                event = json.loads(line)
                deadline = time.monotonic() + float(event.get("limit_s", ROW_LIMIT_S))
                yield event


def _take(event: dict[str, Any], run: Run, follow: Callable[[Row], None], begun: str) -> str:
    """Record an event; return the id of the row that is running, empty if none is."""
    kind = event["event"]
    if kind == "environment":
        for values in event["rows"]:
            row = Row.from_json(values)
            if row.id not in run.rows:
                run.rows[row.id] = row
                follow(row)
        if not run.environment:
            run.environment = event["values"]
        if event["ending"] is not None:
            run.ending = ExitCode(event["ending"])
            run.line = event["line"]
    elif kind == "plan":
        run.planned = {values["id"]: Row.from_json(values) for values in event["rows"]}
    elif kind == "begin":
        begun = str(event["id"])
    elif kind == "row":
        row = Row.from_json(event["row"])
        run.rows[row.id] = row
        follow(row)
        begun = ""
    elif kind == "end":
        run.finished = True
    return begun


def _how_it_ended(code: int, timed_out: bool, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("Assert", "assert", "Error", "error"))]
    last = (telling or lines or [""])[-1][:200]
    if timed_out:
        return "took too long and was ended"
    if code == LOST_EXIT_CODE:
        return "lost the device"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}: {last}" if last else f"was ended by {name}"
    return f"ended with exit code {code}: {last}" if last else f"ended with exit code {code}"
