"""Which rows a run has, by the options and the GPU; without torch.

To add a group of rows: write ``rows/NAME.py`` with functions that take a `Subject` and a `RowSpec` and return
a `Result`; write a planner here, which yields a `RowSpec` for each row; add the planner to `GROUPS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from builder.smoketest.attention import client_calls
from builder.smoketest.attention.cases import (
    LONG_CASES,
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
    """The options of a run.

    Attributes:
        mode: ``quick``, ``default`` or ``long``.
        patterns: Kernels to keep; empty for all.
        device: ``cuda:0``, or ``cpu`` to try the test itself on a fake package.
        groups: Groups of rows to keep besides each kernel's first call; empty for all.
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

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """Return the options from what `asdict` made of them."""
        return cls(**{**values, "patterns": tuple(values["patterns"]), "groups": tuple(values["groups"])})


@dataclass(frozen=True)
class RowSpec:
    """A row that is still to be run.

    Attributes:
        group: A key of `GROUPS`.
        kernel: What is called.
        parameter: The case, the number of tokens, or the row's name in words.
        run: The function that runs the row: ``module.function`` of ``rows``.
        needs_gpu: Whether it is not applicable on the CPU.
        limit_s: How long it may take.
    """

    group: str
    kernel: Kernel
    parameter: Case | VarlenCase | RangeCase | str | int
    run: str
    needs_gpu: bool = True
    limit_s: float = ROW_LIMIT_S

    @property
    def case(self) -> str:
        """What is tested, in words."""
        if isinstance(self.parameter, int):
            return f"{self.parameter} tokens"
        return self.parameter if isinstance(self.parameter, str) else self.parameter.name

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
        values: dict[str, Any] = {"function": self.kernel.function, "family": self.kernel.family}
        values |= dict(self.kernel.arguments)
        if isinstance(self.parameter, int):
            return {**values, "tokens": self.parameter}
        return values if isinstance(self.parameter, str) else {**values, **asdict(self.parameter)}


Rows = Iterator[RowSpec]


def plan(options: Options, capability: Capability) -> tuple[RowSpec, ...]:
    """Return all rows after the imports, in the order in which they run.

    A kernel that the GPU can't run has one row, its first call, which is not applicable.
    """
    kernels = kernels_for(capability, options.patterns)
    able = tuple(kernel for kernel in kernels if not kernel.why_not(capability))
    specs = [RowSpec(FIRST_CALL, kernel, FIRST_CALL, "speed.first_call", False) for kernel in kernels]
    for name, planner in GROUPS.items():
        if not options.groups or name in options.groups:
            specs += planner(options, able)
    return tuple(specs)


def _each(group: str, kernels: tuple[Kernel, ...], rows: dict[str, str], *, needs_gpu: bool = True) -> Rows:
    """Yield a row for each kernel and name: `rows` is names to the functions that run them."""
    for kernel, (name, run) in product(kernels, rows.items()):
        yield RowSpec(group, kernel, name, run, needs_gpu)


def _accuracy(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    others = [kernel.key for kernel in ALL if not kernel.primary]
    for kernel in kernels:
        cases: tuple[Case | VarlenCase, ...] = varlen_cases_for(options.mode)
        if not kernel.varlen:
            share = None if kernel.primary else others.index(kernel.key)
            cases = cases_for(options.mode, share=share, triton="triton" in kernel.key)
        if kernel.smooth_v:
            cases += (SINGLE_TOKEN,)
        for case in dict.fromkeys(cases):
            yield RowSpec("accuracy", kernel, case, "accuracy.compare", needs_gpu=False)


ON_SECOND_GPU = {
    "a mask": "masked",
    "a side stream": "side_stream",
    "a CUDA graph": "graph",
    "compiled": "compiled",
    "two threads with a GPU each": "threads",
    "inputs on two GPUs are refused": "spread",
}


def _runtime(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    plain = tuple(kernel for kernel in kernels if not kernel.varlen)
    primary = _primary(plain)
    some = primary if options.quick else plain
    sageattn = _sageattn(kernels)

    def rows(chosen: tuple[Kernel, ...], name: str, run: str, needs_gpu: bool = True) -> Rows:
        return _each("runtime", chosen, {name: f"runtime.{run}"}, needs_gpu=needs_gpu)

    yield from rows(
        (module_kernel("torch"),), "the test itself: new tensors hold NaN", "streams.new_tensors_hold_nan"
    )
    yield from rows(plain, "side stream behind slow work", "streams.side_stream")
    yield from rows(some, "CUDA graph replayed after new inputs", "streams.graph")
    yield from rows(primary, "two threads, two streams", "streams.threads")
    elsewhere = tuple(kernel for kernel in kernels if kernel in some or kernel.varlen)
    yield from rows(elsewhere, "tensors on cuda:1 while cuda:0 is current", "second_gpu.right")
    for name, run in ON_SECOND_GPU.items():
        yield from rows(primary, f"{name}, on cuda:1 while cuda:0 is current", f"second_gpu.{run}")
    launched = tuple(kernel for kernel in plain if kernel.quantises_in_cuda or kernel.primary)
    yield from rows(launched, "a launch that must fail raises", "streams.launch_error")
    if not options.quick:
        yield from rows(primary, "torch.compile", "streams.aot_eager")
    yield from rows(sageattn if options.quick else primary, "torch.compile fullgraph", "streams.fullgraph")
    if not options.quick:
        yield from rows(sageattn, "torch.compile fullgraph inductor", "streams.inductor")


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


def _arguments(_: Options, kernels: tuple[Kernel, ...]) -> Rows:
    for kernel in _primary(kernels):
        rows = KEYWORDS if kernel.varlen else MASKS | KEYWORDS
        yield from _each("arguments", (kernel,), rows, needs_gpu=False)
        # Causal from the top left, as torch's is_causal, where the lengths differ.
        for lengths in ((100, 333), (333, 100)):
            case = VarlenCase((lengths, lengths[::-1]), causal=True) if kernel.varlen else None
            parameter = case or Case(lengths, head_dim=64, causal=True)
            yield RowSpec("arguments", kernel, parameter, "accuracy.compare", needs_gpu=False)


RISKS_LARGE_V = ("triton-fp16/cuda-quant", "cuda-fp16/fp16+fp32/per_thread", "cuda-fp16/fp16/per_thread")
"""Kernels that sum in fp16, besides the primary ones."""


def _range(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    for kernel in kernels:
        if kernel.primary or kernel.key in RISKS_LARGE_V:
            whole = kernel.primary and not options.quick
            for case in RANGE_DEFAULT if whole else RANGE_QUICK:
                yield RowSpec("range", kernel, case, "ranges.finite", needs_gpu=False)
        if kernel.primary:
            yield RowSpec("range", kernel, "QK^T far below zero", "ranges.far_below", needs_gpu=False)


SHAPES = {
    "no queries, or no batch": "shapes.empty",
    "shapes that disagree are refused": "shapes.disagreeing",
    "other types, devices and layouts are refused": "shapes.kinds",
    "any strides": "shapes.strides",
    "no keys are refused": "shapes.no_keys",
}


def _shapes(_: Options, kernels: tuple[Kernel, ...]) -> Rows:
    for kernel in _primary(kernels):
        rows = SHAPES | ({"cu_seqlens are checked": "shapes.sequences"} if kernel.varlen else {})
        yield from _each("shapes", (kernel,), rows, needs_gpu=False)


REFUSED_GRADIENTS = {
    "backward() raises": "gradient.eager",
    "backward() raises, compiled": "gradient.compiled",
    "a tangent raises": "gradient.tangents",
}
EXACT_GRADIENTS = {
    "as torch's": "gradient.exact_eager",
    "as torch's, compiled": "gradient.exact_compiled",
    "as torch's, with checkpointing": "gradient.exact_checkpoint",
    "as torch's, by torch.func.grad": "gradient.exact_grad",
    "as torch's, by torch.func.jvp": "gradient.exact_jvp",
}


def _gradient(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    for kernel in _primary(kernels):
        rows = EXACT_GRADIENTS if kernel.total else REFUSED_GRADIENTS
        rows = {name: run for name, run in rows.items() if not (options.quick and "compiled" in name)}
        yield from _each("gradient", (kernel,), rows, needs_gpu=False)


TOTAL = {
    "head dims of 160, 192 and 256, V of another": "total.head_dims",
    "float32 and float64": "total.types",
    "tensors on the CPU": "total.cpu",
    "dropout": "total.dropout",
    "a mask with is_causal": "total.masked_causal",
    "torch's signature, any leading dimensions": "total.torchs_order",
    "return_lse": "total.lse",
    "outputs are contiguous": "total.strides",
    "explain() names what computes": "total.explained",
    "__version__": "total.version",
    "nested tensors and causal biases": "total.other_kinds",
}
SLOW_TOTAL = {
    "a whole model patched, also compiled": "total.patched",
    "100 random calls against float64": "total.random_calls",
    "one warning, and a switch in the environment": "total.in_a_process",
    "python -m sageattention": "total.doctor",
}


def _total(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    rows = TOTAL if options.quick else TOTAL | SLOW_TOTAL
    for spec in _each("total", _sageattn(kernels), rows, needs_gpu=False):
        yield replace(spec, limit_s=LONG_ROW_LIMIT_S)


REPORTS = {
    "float masks of all types": "reports.float_masks",
    "keywords that ask for nothing": "reports.keywords",
    "packed sequences in longer buffers": "reports.packed",
    "a mask that is written later": "reports.mask_written_later",
    "a learnt bias": "reports.learnt_bias",
    "autocast": "reports.autocast",
}
SLOW_REPORTS = {
    "torch.compile, dynamic": "reports.dynamic",
    "opcheck of every operator": "reports.opcheck",
    "a library that does not load": "reports.broken_library",
    "torch.export": "reports.exported",
    "AOTInductor": "reports.exported_ahead",
}


def _reports(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    if options.quick:
        return
    rows = REPORTS | SLOW_REPORTS if options.mode == "long" else REPORTS
    for spec in _each("reports", _sageattn(kernels), rows, needs_gpu=False):
        yield replace(spec, limit_s=LONG_ROW_LIMIT_S)


OUTLIERS = (
    "K: 2 channels x50",
    "heavy tails",
    "normal",
    "K: 4 channels x10",
    "Q and K: 4 channels x8",
    "log-normal channel scales",
    "RoPE-like pairs x20",
    "one value over the channels",
    "K's bias of 30",
    "hidden keys x30",
)


def _outliers(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    for kernel in kernels if options.mode == "long" else _primary(kernels):
        cases = OUTLIERS[:2] if options.quick else OUTLIERS[:-1] if kernel.varlen else OUTLIERS
        yield from _each("outliers", (kernel,), dict.fromkeys(cases, "outliers.compare"), needs_gpu=False)


def _calls(options: Options, _: tuple[Kernel, ...]) -> Rows:
    if options.patterns:  # of no one kernel
        return
    yield RowSpec("calls", module_kernel("sageattention"), "names and signatures", "calls.names")
    clients = set()
    for call in client_calls.load()["calls"]:
        client = client_kernel(call)
        if not options.quick or client.key not in clients:
            yield RowSpec("calls", client, call["case"], "calls.made")
        clients.add(client.key)


LOWEST = {"sm80": (8, 0), "sm89": (8, 9), "sm90": (9, 0)}


def client_kernel(call: dict[str, Any]) -> Kernel:
    """Return a client in place of a kernel; without a compiled module it is Triton's, or `sageattn`."""
    needs = call.get("needs", "")
    return Kernel(
        key=call["client"],
        function="",
        family=call["family"],
        lowest=LOWEST.get(needs, (7, 5)),
        only=9 if needs == "sm90" else None,
        module=f"_qattn_{needs}" if needs else "",
    )


FRESH_PROCESS = {
    "no C compiler, no writable HOME": "fresh_process.bare",
    "import and first call, without Triton": "fresh_process.light",
}


def _environment(options: Options, _: tuple[Kernel, ...]) -> Rows:
    if not options.patterns:
        yield from _each("environment", (replace(SAGEATTN, family="fp8"),), FRESH_PROCESS)


DIFFUSERS_BACKENDS = {
    "sage": (7, 5),
    "sage_varlen": (7, 5),
    "_sage_qk_int8_pv_fp8_cuda": (8, 9),
    "_sage_qk_int8_pv_fp8_cuda_sm90": (9, 0),
    "_sage_qk_int8_pv_fp16_cuda": (8, 0),
    "_sage_qk_int8_pv_fp16_triton": (7, 5),
}
"""The backends of diffusers 0.36 and later, and the compute capability that their kernels need."""


WHOLE_MODELS = {
    "Wan 14B, 4 of 40 layers, 832x480, 32,760 tokens": ("Wan 480p", 1.12),
    "Wan 14B, 2 of 40 layers, 1280x720, 75,600 tokens": ("Wan 720p", 1.23),
    "Flux, 4 double and 8 single blocks, 4,608 tokens": ("Flux", 0.99),
    "SDXL, 1024x1024, batch 2": ("SDXL", 0.99),
}
"""Name to the model, and the least ratio of torch's time to ours on an H100."""


def _clients(options: Options, _: tuple[Kernel, ...]) -> Rows:
    if options.patterns:
        return
    diffusers = Kernel(key="diffusers", function="", family="")
    for name, lowest in DIFFUSERS_BACKENDS.items():
        only = 9 if name.endswith("sm90") else None
        yield RowSpec("clients", replace(diffusers, lowest=lowest, only=only), name, "diffusion.backend")
    yield RowSpec("clients", diffusers, "other backends", "diffusion.others")
    if not options.quick:
        yield RowSpec("clients", diffusers, "sage, compiled", "diffusion.compiled")
        yield RowSpec("clients", diffusers, "sage, compiled with CUDA graphs", "diffusion.compiled_graphs")
    if options.speed and options.mode == "long":
        rows = dict.fromkeys(WHOLE_MODELS, "diffusion.whole_model")
        yield from _each("clients", (diffusers,), rows)


def _primary(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    return tuple(kernel for kernel in kernels if kernel.primary)


NEVER_SLOWER = {
    "2x10x256x64": (2, 10, 10, 256, 256, 64, ""),
    "2x10x4096x64": (2, 10, 10, 4096, 4096, 64, ""),
    "1x24x1024x128": (1, 24, 24, 1024, 1024, 128, ""),
    "1x24x8192x128": (1, 24, 24, 8192, 8192, 128, ""),
    "1x24x4096x128 causal": (1, 24, 24, 4096, 4096, 128, "causal"),
    "1x32x4096x128 with 8 heads of K, causal": (1, 32, 8, 4096, 4096, 128, "causal"),
    "2x10x4096x64 to 77 keys": (2, 10, 10, 4096, 77, 64, ""),
    "1x40x32760x128 to 512 keys": (1, 40, 40, 32760, 512, 128, ""),
    "1x24x1x128 to 4096 keys": (1, 24, 24, 1, 4096, 128, ""),
    "2x24x4096x128 with a mask": (2, 24, 24, 4096, 4096, 128, "bool"),
    "2x24x4096x128 with padded keys": (2, 24, 24, 4096, 4096, 128, "padding"),
    "1x16x4096x72": (1, 16, 16, 4096, 4096, 72, ""),
    "1x16x4096x256": (1, 16, 16, 4096, 4096, 256, ""),
}
"""Name to batch, heads of Q, heads of K and V, queries, keys, head_dim, and the mask."""


def _sageattn(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    return tuple(kernel for kernel in kernels if kernel.key == SAGEATTN.key)


def _speed(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    if not options.speed:
        return
    for kernel in kernels:
        if not kernel.varlen and (kernel.primary or (kernel.key in ALSO_TIMED and not options.quick)):
            for length in SPEED_LENGTHS["quick" if options.quick else "default"]:
                yield RowSpec("speed", kernel, length, "speed.timed")
    if not options.quick:
        rows = {f"never slower: {name}": "speed.never_slower" for name in NEVER_SLOWER}
        yield from _each("speed", _sageattn(kernels), rows)


def _long(options: Options, kernels: tuple[Kernel, ...]) -> Rows:
    if options.mode != "long":
        return
    plain = [kernel for kernel in kernels if kernel.primary and not kernel.varlen]
    for case, kernel in product(LONG_CASES, plain):
        yield RowSpec("long", kernel, case, "long.compare", limit_s=LONG_ROW_LIMIT_S)


GROUPS: dict[str, Callable[[Options, tuple[Kernel, ...]], Rows]] = {
    "accuracy": _accuracy,
    "arguments": _arguments,
    "range": _range,
    "shapes": _shapes,
    "total": _total,
    "outliers": _outliers,
    "gradient": _gradient,
    "reports": _reports,
    "calls": _calls,
    "clients": _clients,
    "environment": _environment,
    "runtime": _runtime,
    "speed": _speed,
    "long": _long,
}
"""The groups of rows after each kernel's first call, in the order in which they run."""


def module_kernel(module: str) -> Kernel:
    """Return a compiled module in place of a kernel, for rows that test the module."""
    return Kernel(key=module, function="", family="", module=module)
