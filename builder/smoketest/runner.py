"""Runs one row on the device, and sees whether the device outlived it."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

import torch

from builder.smoketest.cases import Case, VarlenCase
from builder.smoketest.kernels import Capability
from builder.smoketest.outcome import Status
from builder.smoketest.plan import Check, Options
from builder.smoketest.rows import accuracy, conduct, long, speed
from builder.smoketest.rows.result import Result, not_applicable
from builder.smoketest.subject import DeviceLostError, HiddenLaunchError, Subject, one_line


class Runner:
    """Holds what outlives a row: the package that is tested, and dear results that rows share."""

    def __init__(self, options: Options, capability: Capability) -> None:
        device = options.device
        self.seed = options.seed
        self.subject = Subject(importlib.import_module("sageattention"), device, capability)
        self.timings = speed.Timings()
        self.right = long.Right()
        if self.subject.on_gpu:
            torch.cuda.set_device(device)
        torch.set_grad_enabled(False)

    def run(self, check: Check) -> tuple[Result, bool]:
        """Run a row.

        Returns:
            Its result, and whether the device was lost in it.
        """
        try:
            result = self._dispatch(check)
        except DeviceLostError as error:
            return Result(Status.FAIL, f"the device was lost: {error}"), True
        except HiddenLaunchError as error:
            result = Result(Status.FAIL, f"the call returned; the next operation met its error: {error}")
        except torch.cuda.OutOfMemoryError as error:
            result = Result(Status.NOT_RUN, f"too little GPU memory: {one_line(error)}"[:120])
        except Exception as error:
            result = Result(Status.FAIL, one_line(error))
        return self._settle(result)

    def _dispatch(self, check: Check) -> Result:
        seed = check.seed(self.seed)
        subject = check.subject
        if check.group == "first call":
            return speed.first_call(self.subject, check.kernel, seed)
        if isinstance(subject, Case | VarlenCase):
            return accuracy.run(self.subject, check.kernel, subject, seed)
        if isinstance(subject, int):
            return speed.run(self.subject, check.kernel, subject, seed, self.timings)
        if check.group == "long":
            # One seed for all kernels: they share one right answer.
            return long.run(self.subject, check.kernel, subject, self.seed, self.right)
        if check.group == "conduct":
            return conduct.run(self.subject, check.kernel, subject, seed)
        return not_applicable("unknown row")

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
