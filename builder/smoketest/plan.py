"""Which rows a run has: decided from the options and the GPU alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from builder.smoketest.cases import SINGLE_TOKEN, Case, VarlenCase, cases_for, varlen_cases_for
from builder.smoketest.kernels import ALL, MODULE_FUNCTIONS, SAGEATTN, Capability, Kernel, kernels_for

MODES = ("quick", "default", "long")

SPEED_LENGTHS = {"quick": (1024, 8192), "default": (1024, 4096, 8192, 32768)}

POISON = "the test itself: new tensors hold NaN"
SIDE_STREAM = "side stream behind slow work"
GRAPH = "CUDA graph replayed after new inputs"
THREADS = "two threads, two streams"
SECOND_GPU = "tensors on cuda:1 while cuda:0 is current"
LAUNCH_ERROR = "a launch that must fail raises"
BAD_INPUT = "bad input is refused"
COMPILE = "torch.compile"
COMPILE_FULLGRAPH = "torch.compile fullgraph"
COMPILE_INDUCTOR = "torch.compile fullgraph inductor"
MODULE_LEVEL = "module-level functions"
MODULE_LAUNCH_ERROR = "module-level launches that must fail raise"
TOKENS_200K = "200,000 tokens"
HUGE_HND = "64 heads x 270,000 tokens x 128, HND"
HUGE_NHD = "64 heads x 270,000 tokens x 128, NHD"

ROW_LIMIT_S = 120.0
"""How long a row may take before its process is ended: a first compilation is slow, a hang is endless."""
LONG_ROW_LIMIT_S = 600.0


@dataclass(frozen=True)
class Check:
    """A row that is still to be run.

    Attributes:
        subject: The case, the conduct row's name, the number of tokens of a speed row, or the module's name.
    """

    group: str
    kernel: Kernel
    subject: Case | VarlenCase | str | int
    limit_s: float = ROW_LIMIT_S

    @property
    def case(self) -> str:
        """What is asked, in words."""
        if isinstance(self.subject, int):
            return f"{self.subject} tokens"
        return self.subject if isinstance(self.subject, str) else self.subject.name

    @property
    def id(self) -> str:
        """The row's id."""
        return f"{self.group}/{self.kernel.key}/{self.case}"

    def seed(self, base: int) -> int:
        """The seed of the row's inputs: its own, and the same whichever other rows run."""
        return base * 100_003 + zlib.crc32(self.id.encode())

    @property
    def parameters(self) -> dict[str, Any]:
        """The row's parameters for programs."""
        given: dict[str, Any] = {"function": self.kernel.function, "family": self.kernel.family}
        given |= dict(self.kernel.arguments)
        if isinstance(self.subject, int):
            return {**given, "tokens": self.subject}
        return given if isinstance(self.subject, str) else {**given, **self.subject.parameters}


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        mode: One of `MODES`.
        patterns: Kernels to keep; empty for all.
        device: ``cuda:0``, or ``cpu`` to try the test itself on a stand-in for the package.
        import_only: Stop after the imports.
    """

    mode: str = "default"
    patterns: tuple[str, ...] = ()
    seed: int = 0
    speed: bool = True
    import_only: bool = False
    device: str = "cuda:0"
    groups: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {**vars(self), "patterns": list(self.patterns), "groups": list(self.groups)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """The options that `to_json` wrote."""
        return cls(**{**values, "patterns": tuple(values["patterns"]), "groups": tuple(values["groups"])})


def plan(options: Options, capability: Capability) -> tuple[Check, ...]:
    """All rows after the imports, in the order in which they run.

    A kernel that the GPU can't run has one row, its first call, which will be not applicable.
    """
    kernels = kernels_for(capability, options.patterns)
    able = tuple(kernel for kernel in kernels if not kernel.why_not(capability))
    checks = [Check("first call", kernel, "first call") for kernel in kernels]
    checks += _accuracy(options, able)
    checks += _conduct(options, able)
    if options.speed:
        checks += _speed(options, able)
    if options.mode == "long":
        checks += _long(able)
    return tuple(check for check in checks if not options.groups or check.group in options.groups)


def _accuracy(options: Options, kernels: tuple[Kernel, ...]) -> list[Check]:
    checks = []
    for kernel in kernels:
        if kernel.varlen:
            checks += [Check("accuracy", kernel, case) for case in varlen_cases_for(options.mode)]
            continue
        chosen = cases_for(
            options.mode, primary=kernel.primary, share=share_of(kernel), triton="triton" in kernel.key
        )
        if kernel.smooth_v:
            chosen += (SINGLE_TOKEN,)
        checks += [Check("accuracy", kernel, case) for case in dict.fromkeys(chosen)]
    return checks


def share_of(kernel: Kernel) -> int:
    """Number of a kernel among those that are not primary; the same whichever were asked for."""
    others = [one.key for one in ALL if not one.primary]
    return others.index(kernel.key) if kernel.key in others else 0


def _conduct(options: Options, kernels: tuple[Kernel, ...]) -> list[Check]:
    quick = options.mode == "quick"
    names: list[tuple[str, Kernel]] = []
    plain = tuple(kernel for kernel in kernels if not kernel.varlen)
    primary = tuple(kernel for kernel in plain if kernel.primary)
    some = primary if quick else plain
    names += [(SIDE_STREAM, kernel) for kernel in plain]
    names += [(GRAPH, kernel) for kernel in some]
    names += [(THREADS, kernel) for kernel in primary]
    names += [(SECOND_GPU, kernel) for kernel in kernels if kernel in some or kernel.varlen]
    names += [(LAUNCH_ERROR, kernel) for kernel in plain if kernel.quantises_in_cuda or kernel.primary]
    names += [(BAD_INPUT, kernel) for kernel in primary]
    if quick:
        names += [(COMPILE_FULLGRAPH, kernel) for kernel in primary if kernel.key == SAGEATTN.key]
    else:
        names += [(name, kernel) for kernel in primary for name in (COMPILE, COMPILE_FULLGRAPH)]
        names += [(COMPILE_INDUCTOR, kernel) for kernel in primary if kernel.key == SAGEATTN.key]
    checks = [Check("conduct", module_kernel("torch"), POISON)]
    checks += [Check("conduct", kernel, name) for name, kernel in names]
    modules = {kernel.module for kernel in kernels if kernel.module}
    for module in MODULE_FUNCTIONS:
        if module in modules or (module == "_fused" and modules):
            checks.append(Check("conduct", module_kernel(module), MODULE_LEVEL))
            checks.append(Check("conduct", module_kernel(module), MODULE_LAUNCH_ERROR))
    return checks


def _speed(options: Options, kernels: tuple[Kernel, ...]) -> list[Check]:
    lengths = SPEED_LENGTHS["quick" if options.mode == "quick" else "default"]
    timed = [
        kernel for kernel in kernels if not kernel.varlen and (kernel.primary or kernel.key in ALSO_TIMED)
    ]
    if options.mode == "quick":
        timed = [kernel for kernel in timed if kernel.primary]
    return [Check("speed", kernel, length) for kernel in timed for length in lengths]


ALSO_TIMED = (
    "cuda-fp16/fp16+fp32/per_thread",
    "cuda-fp8/fp32+fp32/per_thread",
    "sm90-fp8/fp32+fp32/per_warp",
)
"""Kernels that are timed besides the primary ones."""


def _long(kernels: tuple[Kernel, ...]) -> list[Check]:
    plain = [kernel for kernel in kernels if kernel.primary and not kernel.varlen]
    checks = [Check("long", kernel, TOKENS_200K, LONG_ROW_LIMIT_S) for kernel in plain]
    for kernel in plain:
        checks.append(Check("long", kernel, HUGE_HND, LONG_ROW_LIMIT_S))
        checks.append(Check("long", kernel, HUGE_NHD, LONG_ROW_LIMIT_S))
    return checks


def module_kernel(module: str) -> Kernel:
    """A compiled module in the place of a kernel, for the rows that are about the module."""
    return Kernel(key=module, function="", family="", module=module)
