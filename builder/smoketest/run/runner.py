"""Runs one row on the device, and checks that the device still works."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

import torch

from builder.smoketest.attention.kernels import Capability
from builder.smoketest.attention.subject import DeviceLostError, HiddenLaunchError, Subject, one_line
from builder.smoketest.plan import Check, Options
from builder.smoketest.report.outcome import Result, Status, not_applicable


class Runner:
    """Runs rows of one package on one device."""

    def __init__(self, options: Options, capability: Capability) -> None:
        package = importlib.import_module("sageattention")
        self.subject = Subject(package, options.device, capability, options.seed)
        if self.subject.on_gpu:
            torch.cuda.set_device(options.device)
        torch.set_grad_enabled(False)

    def run(self, check: Check) -> tuple[Result, bool]:
        """Run a row.

        Returns:
            Its result, and whether the device was lost in it.
        """
        try:
            result = self._call(check)
        except DeviceLostError as error:
            return Result(Status.FAIL, f"the device was lost: {error}"), True
        except HiddenLaunchError as error:
            result = Result(Status.FAIL, f"the call returned; the next operation met its error: {error}")
        except torch.cuda.OutOfMemoryError as error:
            result = Result(Status.NOT_RUN, f"too little GPU memory: {one_line(error)}"[:120])
        except Exception as error:
            result = Result(Status.FAIL, one_line(error))
        return self._settle(result)

    def _call(self, check: Check) -> Result:
        if check.needs_gpu and not self.subject.on_gpu:
            return not_applicable("needs a GPU")
        module, _, function = check.run.rpartition(".")
        rows = importlib.import_module(f"builder.smoketest.rows.{module}")
        result: Result = getattr(rows, function)(self.subject, check)
        return result

    def _settle(self, result: Result) -> tuple[Result, bool]:
        """See whether the device still works, and undo what the row changed for the next."""
        try:
            left = self.subject.left_behind()
        except DeviceLostError as error:
            return Result(Status.FAIL, f"{result.reason or 'passed'}; the device was lost: {error}"), True
        if left and result.status is Status.PASS:
            result = Result(Status.FAIL, f"left a CUDA error behind: {left}", result.figures, result.limits)
        if self.subject.on_gpu:
            with suppress(Exception):
                torch.cuda.set_device(self.subject.device)
                if result.status in (Status.FAIL, Status.NOT_RUN):
                    # A failed row may have left cycles of frames and tensors.
                    gc.collect()
                if result.status is Status.NOT_RUN:
                    torch.cuda.empty_cache()
        return result, False
