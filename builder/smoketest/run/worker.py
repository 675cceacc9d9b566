"""The process that touches the GPU: runs the rows one after another and reports each as it ends.

What it tests may kill it (an abort, a lost device, a hang); the supervisor then starts another one for the
remaining rows. torch is imported only after the environment was looked at.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from contextlib import suppress
from typing import Any

from builder.smoketest.plan import FIRST_CALL, Options, RowSpec, plan
from builder.smoketest.report import Result, Row, Status, not_applicable
from builder.smoketest.run.environment import look

LOST_EXIT_CODE = 99
"""Exit code of a worker whose device was lost."""


def main(order: dict[str, Any]) -> int:
    """Look at the environment, then run the rows of the plan that are not done yet.

    Events: ``environment`` (always first), ``plan``, ``begin`` and ``row`` for each row, ``end``.

    Args:
        order: The run's ``options``; ids of the rows that are ``done``; kernels that the wheel lacks
            (``unavailable``), with the reason; the file descriptor to write ``events`` to, as JSON lines.

    Returns:
        0, or `LOST_EXIT_CODE` when the device was lost.
    """
    # An abort with the GPU's memory mapped would leave a core file of many gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with os.fdopen(order["events"], "w", encoding="utf-8") as stream:

        def tell(event: str, **values: Any) -> None:
            stream.write(json.dumps({"event": event, **values}) + "\n")
            stream.flush()

        options = Options.from_json(order["options"])
        env = look(device=options.device, import_only=options.import_only)
        tell(
            "environment",
            values=env.values,
            rows=[row.to_json() for row in env.rows],
            ending=None if env.ending is None else int(env.ending),
            line=env.line,
        )
        if env.ending is not None or options.import_only:
            tell("end")
            return 0
        major, _, minor = env.values.get("capability", "9.0").partition(".")
        capability = int(major), int(minor)
        specs = plan(options, capability)
        tell("plan", rows=[_row(spec, Status.NOT_RUN).to_json() for spec in specs])
        runner = Runner(options, capability)
        unavailable = dict(order["unavailable"])
        for spec in specs:
            if spec.id in order["done"]:
                continue
            tell("begin", id=spec.id, limit_s=spec.limit_s)
            start = time.monotonic()
            if spec.kernel.key in unavailable:
                result, lost = not_applicable(unavailable[spec.kernel.key]), False
            else:
                result, lost = runner.run(spec)
            if spec.group == FIRST_CALL and result.status is Status.NOT_APPLICABLE:
                unavailable[spec.kernel.key] = result.reason
            row = _row(spec, **vars(result), seconds=time.monotonic() - start)
            tell("row", row=row.to_json())
            if lost:
                # The interpreter's shutdown would hang or crash on a lost device.
                sys.stderr.flush()
                os._exit(LOST_EXIT_CODE)
        tell("end")
        # All is reported; an orderly shutdown of torch and CUDA would only take time.
        sys.stderr.flush()
        os._exit(0)


def _row(spec: RowSpec, status: Status, reason: str = "", **more: Any) -> Row:
    name = (spec.id, spec.group, spec.kernel.key, spec.case)
    return Row(*name, status, reason, spec.parameters, **more)


class Runner:
    """Runs rows of one package on one device."""

    def __init__(self, options: Options, capability: tuple[int, int]) -> None:
        self.torch = importlib.import_module("torch")
        self.errors = importlib.import_module("builder.smoketest.attention.subject")
        self.rows = importlib.import_module("builder.smoketest.rows")
        package = importlib.import_module("sageattention")
        self.subject = self.errors.Subject(package, options.device, capability, options.seed)
        if self.subject.on_gpu:
            self.torch.cuda.set_device(options.device)
        self.torch.set_grad_enabled(False)

    def run(self, spec: RowSpec) -> tuple[Result, bool]:
        """Run a row; return its result, and whether the device was lost in it."""
        if spec.needs_gpu and not self.subject.on_gpu:
            return not_applicable("needs a GPU"), False
        try:
            result: Result = self.rows.run_row(self.subject, spec)
        except self.errors.DeviceLostError as error:
            return Result(Status.FAIL, f"the device was lost: {error}"), True
        except self.errors.HiddenLaunchError as error:
            result = Result(Status.FAIL, f"the call returned; the next operation met its error: {error}")
        except self.torch.cuda.OutOfMemoryError as error:
            reason = f"too little GPU memory: {self.errors.one_line(error)}"[:120]
            result = Result(Status.NOT_RUN, reason)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            result = Result(Status.FAIL, self.errors.one_line(error))
        return self._settle(result)

    def _settle(self, result: Result) -> tuple[Result, bool]:
        """See whether the device still works, and undo what the row changed for the next."""
        try:
            left = self.subject.left_behind()
        except self.errors.DeviceLostError as error:
            return Result(Status.FAIL, f"{result.reason or 'passed'}; the device was lost: {error}"), True
        if left and result.status is Status.PASS:
            result = Result(Status.FAIL, f"left a CUDA error behind: {left}", result.figures, result.limits)
        self.torch.set_grad_enabled(False)
        if self.subject.on_gpu:
            with suppress(Exception):
                self.torch.cuda.set_device(self.subject.device)
                if result.status in (Status.FAIL, Status.NOT_RUN):
                    # A failed row may have left cycles of frames and tensors.
                    gc.collect()
                if result.status is Status.NOT_RUN:
                    self.torch.cuda.empty_cache()
        return result, False
