# SPDX-License-Identifier: Apache-2.0
"""Runs a function on the device of its query, and leaves the caller's current device as it was."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ._arguments import Call


def on_device_of_query(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the query's device current for the call, since Triton launches on the current one.

    Costs nothing where that device is current. Under torch.compile nothing is to be done: the compiled
    code sets the device around each Triton kernel, and the operators set it themselves.
    """

    @functools.wraps(function)
    def guarded(call: Call, *args: Any) -> Any:
        device = call.q.device
        if (
            torch.compiler.is_compiling()
            or device.type != "cuda"
            or device.index == torch.cuda.current_device()
        ):
            return function(call, *args)
        with torch.cuda.device(device):
            return function(call, *args)

    return guarded
