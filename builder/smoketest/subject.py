"""The package that is tested, and how its functions are called."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from builder.smoketest.kernels import Capability, Kernel


class HiddenLaunchError(Exception):
    """A call returned as if all was well, and left a CUDA error behind for the next operation to find."""


class DeviceLostError(Exception):
    """The CUDA context is unusable: nothing more can run in this process."""


@dataclass(frozen=True)
class Subject:
    """An imported ``sageattention`` and the device that it is tested on.

    Attributes:
        device: ``cuda:0``, or ``cpu`` for a stand-in.
    """

    module: ModuleType
    device: str
    capability: Capability

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def call(self, kernel: Kernel, *tensors: Any, **arguments: Any) -> Any:
        """Call a kernel's function with its own arguments and these."""
        function = getattr(self.module, kernel.function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*tensors, **dict(kernel.arguments), **arguments)

    def call_checked(self, kernel: Kernel, *tensors: Any, **arguments: Any) -> Any:
        """Like `call`, then wait for the device and look for an error that the call left behind.

        Raises:
            HiddenLaunchError: The call returned, but the next operation met its error.
            DeviceLostError: The device can't be used any more.
        """
        result = self.call(kernel, *tensors, **arguments)
        error = self.left_behind()
        if error:
            raise HiddenLaunchError(error)
        return result

    def left_behind(self) -> str:
        """The error that earlier work left on the device; empty if there is none.

        Raises:
            DeviceLostError: The error stays when asked again.
        """
        if not self.on_gpu:
            return ""
        first = self._try_device()
        if not first:
            return ""
        second = self._try_device()
        if second:
            raise DeviceLostError(first)
        return first

    def _try_device(self) -> str:
        try:
            torch.cuda.synchronize(self.device)
            torch.zeros(1, device=self.device).add_(1)
            torch.cuda.synchronize(self.device)
        except Exception as error:
            return one_line(error)
        return ""


def one_line(error: BaseException) -> str:
    """An exception as one line: its type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return shorten(f"{type(error).__name__}: {text}") if text else type(error).__name__


def shorten(text: str, most: int = 200) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
