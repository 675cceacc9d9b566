"""The process that touches the GPU: runs the rows one after another and reports each as it ends.

What it tests may kill it (an abort, a lost device, a hang); the supervisor then starts another one for the
remaining rows.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

from builder.smoketest.plan import FIRST_CALL, Check, Options, plan
from builder.smoketest.report.outcome import Row, Status
from builder.smoketest.run.environment import look

LOST_EXIT_CODE = 99
"""Exit code of a worker whose device was lost."""


@dataclass(frozen=True)
class Order:
    """What the supervisor tells a worker.

    Attributes:
        done: Ids of the rows that have a result.
        unavailable: Kernels that the wheel lacks, with the reason: their rows are not applicable.
        events: File descriptor to write events to, one JSON object a line.
    """

    options: Options
    done: tuple[str, ...]
    unavailable: dict[str, str]
    events: int

    def to_json(self) -> str:
        """Return the order as text."""
        return json.dumps({**vars(self), "options": self.options.to_json(), "done": list(self.done)})

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Return the order that `to_json` wrote."""
        values = json.loads(text)
        options = Options.from_json(values["options"])
        return cls(**{**values, "options": options, "done": tuple(values["done"])})


def main(order: Order) -> int:
    """Look at the environment, then run the rows of the plan that are not done yet.

    Events: ``environment`` (always first), ``plan``, ``begin`` and ``row`` for each row, ``end``.

    Returns:
        0, or `LOST_EXIT_CODE` when the device was lost.
    """
    # An abort with the GPU's memory mapped would leave a core file of many gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with os.fdopen(order.events, "w", encoding="utf-8") as stream:

        def tell(event: str, **values: Any) -> None:
            stream.write(json.dumps({"event": event, **values}) + "\n")
            stream.flush()

        options = order.options
        found = look(device=options.device, import_only=options.import_only)
        tell(
            "environment",
            values=found.values,
            rows=[row.to_json() for row in found.rows],
            ending=None if found.ending is None else int(found.ending),
            line=found.line,
        )
        if found.ending is not None or options.import_only:
            tell("end")
            return 0
        capability = _capability(found.values.get("capability", "9.0"))
        checks = plan(options, capability)
        tell("plan", rows=[_row(check, Status.NOT_RUN, "").to_json() for check in checks])
        # torch can be imported, as is known by now.
        runner = importlib.import_module("builder.smoketest.run.runner").Runner(options, capability)
        done = set(order.done)
        unavailable = dict(order.unavailable)
        for check in checks:
            if check.id in done:
                continue
            tell("begin", id=check.id, limit_s=check.limit_s)
            start = time.monotonic()
            if check.kernel.key in unavailable:
                row = _row(check, Status.NOT_APPLICABLE, unavailable[check.kernel.key])
            else:
                row, lost = _run(runner, check, start)
                if lost:
                    tell("row", row=row.to_json())
                    stream.flush()
                    # The interpreter's shutdown would hang or crash on a lost device.
                    sys.stderr.flush()
                    os._exit(LOST_EXIT_CODE)
            if check.group == FIRST_CALL and row.status is Status.NOT_APPLICABLE:
                unavailable[check.kernel.key] = row.reason
            tell("row", row=row.to_json())
        tell("end")
        # All is reported; an orderly shutdown of torch and CUDA would only take time.
        sys.stderr.flush()
        os._exit(0)


def _run(runner: Any, check: Check, start: float) -> tuple[Row, bool]:
    try:
        result, lost = runner.run(check)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]
        return _row(check, Status.FAIL, reason, seconds=time.monotonic() - start), False
    row = _row(
        check,
        result.status,
        result.reason,
        figures=result.figures,
        limits=result.limits,
        seconds=time.monotonic() - start,
    )
    return row, lost


def _row(check: Check, status: Status, reason: str, **more: Any) -> Row:
    return Row(
        id=check.id,
        group=check.group,
        kernel=check.kernel.key,
        case=check.case,
        status=status,
        reason=reason,
        parameters=check.parameters,
        **more,
    )


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
