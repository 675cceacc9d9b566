"""Which rows a run has, by the options and the GPU; without torch.

To add a group of rows:

1. Write ``rows/NAME.py`` with a function for each kind of row: it takes a `Subject` and a `Check`, and
   returns a `Result`.
2. Write a planner here: it takes the options and the kernels that the GPU can run, and yields a `Check` for
   each row, with the ``module.function`` that runs it.
3. Add the planner to `GROUPS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from builder.smoketest.attention import contract
from builder.smoketest.attention.cases import (
    LONG_CASES,
    PREPARATIONS,
    RANGE_DEFAULT,
    RANGE_QUICK,
    SINGLE_TOKEN,
    Case,
    RangeCase,
    VarlenCase,
    cases_for,
    varlen_cases_for,
)
from builder.smoketest.attention.kernels import (
    ALL,
    MODULE_FUNCTIONS,
    SAGEATTN,
    Capability,
    Kernel,
    kernels_for,
)

SPEED_LENGTHS = {"quick": (1024, 8192), "default": (1024, 4096, 8192, 32768)}
ALSO_TIMED = (
    "cuda-fp16/fp16+fp32/per_thread",
    "cuda-fp8/fp32+fp32/per_thread",
    "sm90-fp8/fp32+fp32/per_warp",
)
"""Kernels that are timed besides the primary ones."""

ROW_LIMIT_S = 120.0
"""How long a row may take before its process is killed. A first compilation is slow; a hang never ends."""
LONG_ROW_LIMIT_S = 600.0

FIRST_CALL = "first call"


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        mode: ``quick``, ``default`` or ``long``.
        patterns: Kernels to keep; empty for all.
        device: ``cuda:0``, or ``cpu`` to try the test itself on a stand-in for the package.
        import_only: Stop after the imports.
        groups: Groups of rows to keep; empty for all. Each kernel's first call is always kept.
    """

    mode: str = "default"
    patterns: tuple[str, ...] = ()
    seed: int = 0
    speed: bool = True
    import_only: bool = False
    device: str = "cuda:0"
    groups: tuple[str, ...] = ()

    @property
    def quick(self) -> bool:
        """Whether the run has to be short."""
        return self.mode == "quick"

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {**vars(self), "patterns": list(self.patterns), "groups": list(self.groups)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """The options that `to_json` wrote."""
        return cls(**{**values, "patterns": tuple(values["patterns"]), "groups": tuple(values["groups"])})


@dataclass(frozen=True)
class Check:
    """A row that is still to be run.

    Attributes:
        group: A key of `GROUPS`.
        kernel: What is called.
        asked: The case, the number of tokens, or the row's name in words.
        run: The function that runs the row: ``module.function`` of ``rows``.
        needs_gpu: Whether it is not applicable on the stand-in device.
        limit_s: How long it may take.
    """

    group: str
    kernel: Kernel
    asked: Case | VarlenCase | RangeCase | str | int
    run: str
    needs_gpu: bool = True
    limit_s: float = ROW_LIMIT_S

    @property
    def case(self) -> str:
        """What is asked, in words."""
        if isinstance(self.asked, int):
            return f"{self.asked} tokens"
        return self.asked if isinstance(self.asked, str) else self.asked.name

    @property
    def id(self) -> str:
        """The row's id."""
        return f"{self.group}/{self.kernel.key}/{self.case}"

    def seed(self, base: int) -> int:
        """Return the seed of the row's inputs: its own, and the same whichever other rows run."""
        return base * 100_003 + zlib.crc32(self.id.encode())

    @property
    def parameters(self) -> dict[str, Any]:
        """The row's parameters for programs."""
        given: dict[str, Any] = {"function": self.kernel.function, "family": self.kernel.family}
        given |= dict(self.kernel.arguments)
        if isinstance(self.asked, int):
            return {**given, "tokens": self.asked}
        return given if isinstance(self.asked, str) else {**given, **self.asked.parameters}


def plan(options: Options, capability: Capability) -> tuple[Check, ...]:
    """Return all rows after the imports, in the order in which they run.

    A kernel that the GPU can't run has one row, its first call, which is not applicable.
    """
    kernels = kernels_for(capability, options.patterns)
    able = tuple(kernel for kernel in kernels if not kernel.why_not(capability))
    checks = [Check(FIRST_CALL, kernel, FIRST_CALL, "speed.first_call", False) for kernel in kernels]
    for name, planner in GROUPS.items():
        if not options.groups or name in options.groups:
            checks += planner(options, able)
    return tuple(checks)


def _accuracy(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    for kernel in kernels:
        cases: tuple[Case | VarlenCase, ...] = varlen_cases_for(options.mode)
        if not kernel.varlen:
            cases = cases_for(
                options.mode, primary=kernel.primary, share=_share(kernel), triton="triton" in kernel.key
            )
        if kernel.smooth_v:
            cases += (SINGLE_TOKEN,)
        for case in dict.fromkeys(cases):
            yield Check("accuracy", kernel, case, "accuracy.compare", needs_gpu=False)


def _share(kernel: Kernel) -> int:
    """Return a kernel's number among those that are not primary, whichever were asked for."""
    others = [one.key for one in ALL if not one.primary]
    return others.index(kernel.key) if kernel.key in others else 0


ON_SECOND_GPU = {
    "a mask": "masked",
    "a side stream": "side_stream",
    "a CUDA graph": "graph",
    "compiled": "compiled",
    "two threads with a GPU each": "threads",
    "inputs on two GPUs are refused": "spread",
}


def _conduct(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    plain = tuple(kernel for kernel in kernels if not kernel.varlen)
    primary = tuple(kernel for kernel in plain if kernel.primary)
    some = primary if options.quick else plain
    sageattn = tuple(kernel for kernel in primary if kernel.key == SAGEATTN.key)

    def rows(chosen: tuple[Kernel, ...], name: str, run: str, needs_gpu: bool = True) -> Iterator[Check]:
        return (Check("conduct", kernel, name, run, needs_gpu) for kernel in chosen)

    yield Check(
        "conduct", module_kernel("torch"), "the test itself: new tensors hold NaN", "accuracy.poisoned"
    )
    yield from rows(plain, "side stream behind slow work", "conduct.streams.side_stream")
    yield from rows(some, "CUDA graph replayed after new inputs", "conduct.streams.graph")
    yield from rows(primary, "two threads, two streams", "conduct.streams.threads")
    elsewhere = tuple(kernel for kernel in kernels if kernel in some or kernel.varlen)
    yield from rows(elsewhere, "tensors on cuda:1 while cuda:0 is current", "conduct.second_gpu.right")
    for name, run in ON_SECOND_GPU.items():
        yield from rows(primary, f"{name}, on cuda:1 while cuda:0 is current", f"conduct.second_gpu.{run}")
    yield Check(
        "conduct", module_kernel("_fused"), "prepared on cuda:1 as on cuda:0", "conduct.second_gpu.prepared"
    )
    launched = tuple(kernel for kernel in plain if kernel.quantises_in_cuda or kernel.primary)
    yield from rows(launched, "a launch that must fail raises", "conduct.refusals.launch_error")
    if not options.quick:
        yield from rows(primary, "torch.compile", "conduct.compiled.aot_eager")
    yield from rows(
        sageattn if options.quick else primary, "torch.compile fullgraph", "conduct.compiled.fullgraph"
    )
    if not options.quick:
        yield from rows(sageattn, "torch.compile fullgraph inductor", "conduct.compiled.inductor")
    modules = {kernel.module for kernel in kernels if kernel.module}
    for module in MODULE_FUNCTIONS:
        if module in modules or (module == "_fused" and modules):
            alone = (module_kernel(module),)
            yield from rows(alone, "module-level functions", "conduct.modules.functions", needs_gpu=False)
            yield from rows(
                alone, "module-level launches that must fail raise", "conduct.refusals.module_launches"
            )


MASKS = {
    "attn_mask of bool": "keywords.bool_mask",
    "attn_mask of floats, for all heads": "keywords.float_mask",
    "attn_mask of padded keys": "keywords.padding_mask",
    "attn_mask that masks nothing, or can't be honoured": "keywords.no_mask",
}
KEYWORDS = {
    "keywords that can't be honoured are refused": "keywords.refused",
    "harmless keywords are accepted": "keywords.accepted",
    "scale and sm_scale": "keywords.scales",
    "smooth_k=False": "keywords.smooth_k",
}


def _arguments(_: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    for kernel in _primary(kernels):
        for name, run in (KEYWORDS if kernel.varlen else MASKS | KEYWORDS).items():
            yield Check("arguments", kernel, name, run, needs_gpu=False)
        # Causal from the top left, as torch's is_causal, where the lengths differ.
        for lengths in ((100, 333), (333, 100)):
            case = VarlenCase((lengths, lengths[::-1]), causal=True) if kernel.varlen else None
            asked = case or Case(lengths, head_dim=64, causal=True)
            yield Check("arguments", kernel, asked, "accuracy.compare", needs_gpu=False)


RISKS_LARGE_V = ("triton-fp16/cuda-quant", "cuda-fp16/fp16+fp32/per_thread", "cuda-fp16/fp16/per_thread")
"""Kernels that sum in fp16, besides the primary ones."""


def _range(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    for kernel in kernels:
        if kernel.primary or kernel.key in RISKS_LARGE_V:
            whole = kernel.primary and not options.quick
            for case in RANGE_DEFAULT if whole else RANGE_QUICK:
                yield Check("range", kernel, case, "ranges.finite", needs_gpu=False)
        if kernel.primary:
            yield Check("range", kernel, "QK^T far below zero", "ranges.far_below", needs_gpu=False)


SHAPES = {
    "no queries, or no batch": "shapes.empty",
    "shapes that disagree are refused": "shapes.disagreeing",
    "other types, devices and layouts are refused": "shapes.kinds",
    "any strides": "shapes.strides",
    "no keys are refused": "shapes.no_keys",
}


def _shapes(_: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    for kernel in _primary(kernels):
        rows = SHAPES | ({"cu_seqlens are checked": "shapes.sequences"} if kernel.varlen else {})
        for name, run in rows.items():
            yield Check("shapes", kernel, name, run, needs_gpu=False)


def _gradient(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    for kernel in _primary(kernels):
        yield Check("gradient", kernel, "backward() raises", "gradient.eager", needs_gpu=False)
        if kernel.key == SAGEATTN.key or not options.quick:
            yield Check("gradient", kernel, "backward() raises, compiled", "gradient.compiled")


LOWEST = {"sm80": (8, 0), "sm89": (8, 9), "sm90": (9, 0)}


def _contract(options: Options, _: tuple[Kernel, ...]) -> Iterator[Check]:
    if options.patterns:  # of no one kernel
        return
    yield Check("contract", module_kernel("sageattention"), "names and signatures", "calls.names")
    clients = set()
    for call in contract.load()["calls"]:
        # Without a compiled module it is one that Triton compiles, or that sageattn() chooses.
        needs = call.get("needs", "")
        client = Kernel(
            key=call["client"],
            function="",
            family=call["family"],
            lowest=LOWEST.get(needs, (7, 5)),
            only=9 if needs == "sm90" else None,
            module=f"_qattn_{needs}" if needs else "",
        )
        if not options.quick or client.key not in clients:
            yield Check("contract", client, call["case"], "calls.made")
        clients.add(client.key)


FRESH_PROCESS = {
    "no C compiler, no writable HOME": "fresh_process.bare",
    "import and first call, without Triton": "fresh_process.light",
}


def _environment(options: Options, _: tuple[Kernel, ...]) -> Iterator[Check]:
    if not options.patterns:
        for name, run in FRESH_PROCESS.items():
            yield Check("environment", replace(SAGEATTN, family="fp8"), name, run)


def _preparation(options: Options, _: tuple[Kernel, ...]) -> Iterator[Check]:
    if not options.patterns:
        for name in PREPARATIONS:
            yield Check("preparation", module_kernel("_fused"), name, "preparation.compare")


DIFFUSERS_BACKENDS = {
    "sage": (7, 5),
    "sage_varlen": (7, 5),
    "_sage_qk_int8_pv_fp8_cuda": (8, 9),
    "_sage_qk_int8_pv_fp8_cuda_sm90": (9, 0),
    "_sage_qk_int8_pv_fp16_cuda": (8, 0),
    "_sage_qk_int8_pv_fp16_triton": (7, 5),
}
"""The backends of diffusers 0.36 and later, and the compute capability that their kernels need."""


def _clients(options: Options, _: tuple[Kernel, ...]) -> Iterator[Check]:
    if options.patterns:
        return
    diffusers = Kernel(key="diffusers", function="", family="")
    for name, lowest in DIFFUSERS_BACKENDS.items():
        only = 9 if name.endswith("sm90") else None
        yield Check("clients", replace(diffusers, lowest=lowest, only=only), name, "diffusion.backend")
    yield Check("clients", diffusers, "other backends", "diffusion.others")
    if not options.quick:
        yield Check("clients", diffusers, "sage, compiled", "diffusion.compiled")
        yield Check("clients", diffusers, "sage, compiled with CUDA graphs", "diffusion.compiled_graphs")


def _primary(kernels: tuple[Kernel, ...]) -> Iterator[Kernel]:
    return (kernel for kernel in kernels if kernel.primary)


def _speed(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    if not options.speed:
        return
    for kernel in kernels:
        if not kernel.varlen and (kernel.primary or (kernel.key in ALSO_TIMED and not options.quick)):
            for length in SPEED_LENGTHS["quick" if options.quick else "default"]:
                yield Check("speed", kernel, length, "speed.timed")


def _long(options: Options, kernels: tuple[Kernel, ...]) -> Iterator[Check]:
    if options.mode != "long":
        return
    plain = [kernel for kernel in kernels if kernel.primary and not kernel.varlen]
    # Case by case, so that all kernels are compared with one right answer.
    for name, kernel in product(LONG_CASES, plain):
        yield Check("long", kernel, name, "long.compare", limit_s=LONG_ROW_LIMIT_S)


GROUPS: dict[str, Callable[[Options, tuple[Kernel, ...]], Iterator[Check]]] = {
    "accuracy": _accuracy,
    "arguments": _arguments,
    "range": _range,
    "shapes": _shapes,
    "gradient": _gradient,
    "preparation": _preparation,
    "contract": _contract,
    "clients": _clients,
    "environment": _environment,
    "conduct": _conduct,
    "speed": _speed,
    "long": _long,
}
"""The groups of rows after each kernel's first call, in the order in which they run."""


def module_kernel(module: str) -> Kernel:
    """Return a compiled module in place of a kernel, for rows that test the module."""
    return Kernel(key=module, function="", family="", module=module)
