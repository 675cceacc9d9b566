"""The package that is tested, and how its functions are called."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

import torch

from builder.smoketest.attention.inputs import pack, unpack
from builder.smoketest.attention.kernels import Capability, Kernel

Cached = TypeVar("Cached")
Attempts = dict[str, Callable[[], list[str]]]
"""Names, and functions that return problems in words."""


class HiddenLaunchError(Exception):
    """A call returned without an exception, and the next operation met its CUDA error."""


class DeviceLostError(Exception):
    """The CUDA context is unusable: nothing more can run in this process."""


@dataclass(frozen=True)
class Subject:
    """An imported ``sageattention`` and the device that it is tested on.

    Attributes:
        device: ``cuda:0``, or ``cpu`` for a fake package.
        seed: The run's seed; a row takes its own from it with `RowSpec.seed`.
    """

    module: ModuleType
    device: str
    capability: Capability
    seed: int = 0
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def cached(self, key: str, make: Callable[[], Cached]) -> Cached:
        """Return what all rows of this process share by a name; made when first asked for."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]  # type: ignore[no-any-return]

    def compiled_module(self, name: str) -> ModuleType | None:
        """Return a compiled module of the installed package; None where the wheel doesn't have it."""
        try:
            return importlib.import_module(f"sageattention.{name}")
        except ModuleNotFoundError as absent:
            if absent.name != f"sageattention.{name}":
                raise
            return None

    def call(self, kernel: Kernel, *tensors: Any, **arguments: Any) -> Any:
        """Call a kernel's function with its own arguments and these."""
        function = getattr(self.module, kernel.function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*tensors, **dict(kernel.arguments), **arguments)

    def call_checked(self, kernel: Kernel, *tensors: Any, **arguments: Any) -> Any:
        """Like `call`, then wait for the device and raise the error that the call left behind."""
        result = self.call(kernel, *tensors, **arguments)
        error = self.left_behind()
        if error:
            raise HiddenLaunchError(error)
        return result

    def attend(self, kernel: Kernel, q: Any, k: Any, v: Any, **arguments: Any) -> Any:
        """Like `call_checked` with ``[batch, heads, tokens, head_dim]``, packed for ``sageattn_varlen``."""
        if not kernel.varlen:
            return self.call_checked(kernel, q, k, v, **arguments)
        return unpack(self.call_checked(kernel, *pack(q, k, v), **arguments), q)

    def refused(self, call: Callable[[], Any], kind: type[Exception], *words: str) -> list[str]:
        """Return what is wrong with how a call is refused: by a kind of exception, with words in its text."""
        try:
            call()
            left = self.left_behind()
        except DeviceLostError:
            raise
        except Exception as error:
            left = self.left_behind()
            problems = [f"left a CUDA error behind: {left}"] if left else []
            if not isinstance(error, kind):
                return [*problems, f"raised {one_line(error)}, not {kind.__name__}"]
            missing = [word for word in words if word not in str(error)]
            return problems + ([f"the message lacks {missing}: {one_line(error)}"] if missing else [])
        return [f"accepted without an exception; left a CUDA error behind: {left}" if left else "accepted"]

    def left_behind(self) -> str:
        """Return the error that earlier work left on the device; empty if there is none.

        Raises:
            DeviceLostError: The error stays when asked again.
        """
        if not self.on_gpu:
            return ""
        first = self._try_device()
        if first and self._try_device():
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


def problems_of(attempts: Mapping[str, Callable[[], list[str]]]) -> list[str]:
    """Try all and return their problems, each with its attempt's name; a lost device ends it."""
    problems: list[str] = []
    for name, attempt in attempts.items():
        try:
            of_attempt = attempt()
        except DeviceLostError as error:
            raise DeviceLostError("; ".join([*problems, f"{name}: {error}"])) from None
        except Exception as error:
            of_attempt = [f"raised {one_line(error)}"]
        problems += [f"{name}: {problem}" for problem in of_attempt]
    return problems


def one_line(error: BaseException) -> str:
    """Return an exception as one line of at most 200 characters: its type and its message's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"


def run_python(*arguments: str, limit_s: float = 100.0, env: Mapping[str, str] | None = None) -> str:
    """Run Python with the tested package and these variables more; return what it printed, or raise."""
    path = ":".join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"ended with exit code {done.returncode}: {last}")
    return done.stdout
