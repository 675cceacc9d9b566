"""No row can end a run: what dies, hangs or loses the device has failed, and the rest goes on."""

from __future__ import annotations

import sys

import pytest

from builder.smoketest.plan import Options
from builder.smoketest.report import ExitCode, Row, Status
from builder.smoketest.run import supervisor
from builder.smoketest.run.supervisor import Run, supervise

WORKER = """
import json, os, signal, sys, time
order = json.loads(sys.argv[1])
out = os.fdopen(order["events"], "w")
def tell(event, **values):
    out.write(json.dumps({"event": event, **values}) + "\\n"); out.flush()
def row(name, status="not run", reason="", group="accuracy", kernel="k"):
    return dict(id=name, group=group, kernel=kernel, case=name, status=status, reason=reason,
                parameters={}, figures={}, limits={}, seconds=0)
"""

NORMAL_START = """
tell("environment", values={"gpu": "G"}, rows=[row("torch", "pass", group="import")], ending=None, line="")
tell("plan", rows=[row(name) for name in "abcd"])
for name in "abcd":
    if name in order["done"]:
        continue
    tell("begin", id=name, limit_s=LIMIT)
    if name == "b":
        FAULT
    tell("row", row=row(name, "pass"))
tell("end")
"""


def worker(fault: str, limit_s: float = 60) -> list[str]:
    body = NORMAL_START.replace("FAULT", fault).replace("LIMIT", str(limit_s))
    return [sys.executable, "-c", WORKER + body]


def go(command: list[str]) -> tuple[Run, dict[str, Row], list[Row]]:
    followed: list[Row] = []
    run = supervise(Options(), followed.append, command)
    return run, {row.id: row for row in run.all_rows}, followed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.abort()", "the process was ended by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process was ended by SIGSEGV"),
        ("os._exit(99)", "the process lost the device"),
        ("os._exit(7)", "the process ended with exit code 7"),
    ],
)
def test_a_death_fails_its_row_and_the_rest_goes_on(fault: str, reason: str) -> None:
    run, rows, followed = go(worker(fault))
    assert rows["b"].status is Status.FAIL
    assert rows["b"].reason == reason
    assert [rows[name].status for name in "acd"] == [Status.PASS] * 3
    assert run.workers == 2
    assert run.finished
    assert [row.id for row in followed] == ["torch", "a", "b", "c", "d"]


def test_what_the_process_last_said_is_the_reason() -> None:
    fault = "print('x.cu:12: Assertion `r == 0` failed.', file=sys.stderr, flush=True); os.abort()"
    _, rows, _ = go(worker(fault))
    assert "Assertion `r == 0` failed" in rows["b"].reason


def test_a_hang_is_ended() -> None:
    run, rows, _ = go(worker("time.sleep(600)", limit_s=0.3))
    assert rows["b"].reason == "the process took too long and was ended"
    assert rows["d"].status is Status.PASS
    assert run.workers == 2


def test_a_lost_device_keeps_the_rows_own_reason() -> None:
    fault = 'tell("row", row=row(name, "FAIL", "illegal memory access")); os._exit(99)'
    run, rows, _ = go(worker(fault))
    assert rows["b"].reason == "illegal memory access"
    assert rows["d"].status is Status.PASS
    assert run.workers == 2


def test_when_every_row_kills_its_process_the_run_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MOST_WORKERS", 2)
    body = NORMAL_START.replace('if name == "b":', "if True:").replace("FAULT", "os.abort()")
    run, rows, _ = go([sys.executable, "-c", WORKER + body.replace("LIMIT", "60")])
    assert [rows[name].status for name in "abcd"] == [
        Status.FAIL,
        Status.FAIL,
        Status.NOT_RUN,
        Status.NOT_RUN,
    ]
    assert "given up: the last of 2 processes was ended by SIGABRT" in rows["c"].reason
    assert not run.finished


def test_an_import_that_kills_the_process_is_an_ending_of_its_own() -> None:
    run, rows, _ = go([sys.executable, "-c", "import os; os.abort()"])
    assert run.ending is ExitCode.SAGEATTENTION_NOT_IMPORTABLE
    assert "was ended by SIGABRT" in run.line
    assert rows == {}


def test_an_ending_is_passed_on() -> None:
    body = 'tell("environment", values={}, rows=[], ending=20, line="no GPU"); tell("end")'
    run, _, _ = go([sys.executable, "-c", WORKER + body])
    assert run.ending is ExitCode.NO_GPU
    assert run.line == "no GPU"
    assert run.workers == 1


def test_kernels_that_the_wheel_lacks_are_told_to_the_next_process() -> None:
    body = """
tell("environment", values={}, rows=[], ending=None, line="")
tell("plan", rows=[row("f", group="first call"), row("a"), row("b")])
if not order["done"]:
    tell("begin", id="f", limit_s=60)
    tell("row", row=row("f", "n/a", "no code", group="first call"))
    tell("begin", id="a", limit_s=60)
    os.abort()
assert order["unavailable"] == {"k": "no code"}
tell("begin", id="b", limit_s=60)
tell("row", row=row("b", "pass"))
tell("end")
"""
    _, rows, _ = go([sys.executable, "-c", WORKER + body])
    assert rows["b"].status is Status.PASS
