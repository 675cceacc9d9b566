# SPDX-License-Identifier: Apache-2.0
"""Builds the extensions: shared libraries of operators on torch's stable ABI, without Python in them.

All sources of all extensions go through one pool of compiler processes, longest first. The environment
says what to build, and nothing else does:

    TORCH_CUDA_ARCH_LIST             architectures, such as "8.0;8.6;8.9;9.0a;12.0"
    CUDA_HOME                        CUDA toolkit
    SAGEATTENTION_LOCAL_VERSION      local version label, such as "cu130.torch2.11"
    SAGEATTENTION_TORCH_REQUIREMENT  requirement, such as "torch==2.11.*"
    SAGEATTENTION_TORCH              folder of the torch to build with, which need not be for this machine;
                                     by default the one that is installed
    SAGEATTENTION_ABI                "native" (one Python and torch) or "stable" (tag cp310-abi3)
    SAGEATTENTION_JOBS               compiler processes at a time, default 1
    SAGEATTENTION_LAUNCHER           command to put before each compiler, such as the path of ccache
    SAGEATTENTION_EVENTS             file to append progress to, one JSON object a line
    SAGEATTENTION_COSTS              JSON file {source: seconds} of an earlier build
    CXX                              host compiler, default g++
"""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = Path("build/objects")

# Architecture -> the lowest CUDA release whose compiler has it.
ARCHITECTURES = {
    "8.0": (12, 0),
    "8.6": (12, 0),
    "8.9": (12, 4),
    "9.0a": (12, 3),
    "12.0": (12, 8),
    "12.1": (12, 9),
}

# Their PTX goes along, for GPUs that are newer than all of these: the fp16 kernels' and the fp8 kernels'.
WITH_PTX = ("8.0", "8.9")

# The C functions of torch that this version's headers call are there from torch 2.7 on.
TORCH_TARGET_VERSION = "0x0209000000000000ULL"


class BuildError(SystemExit):
    """Ends the build with a message."""


@dataclass(frozen=True)
class Unit:
    """One compiler process: a source, or one entry point of it.

    `seconds` is for one architecture, on a core of 2023: only the order counts. `shared` are groups of
    architectures that are assembled from one PTX, the first one's: the machine code is the same as from
    each one's own (compared for CUDA 13.0), and half of the time is spared. Not in a group is one for which
    the sources or CUDA's headers have different code than for the first.
    """

    source: str
    seconds: int
    entry: str = ""
    shared: tuple = ()

    @property
    def name(self):
        return f"{self.source}:{self.entry}" if self.entry else self.source

    @property
    def object(self):
        return BUILD / (re.sub(r"[^A-Za-z0-9]+", "_", self.name) + ".o")


@dataclass(frozen=True)
class Library:
    """One extension; `least` and `only` say for which of the asked architectures it is compiled."""

    name: str
    units: tuple
    least: str = "8.0"
    only: str = ""

    def architectures(self, asked):
        if self.only:
            return [arch for arch in asked if arch == self.only]
        return [arch for arch in asked if _order(arch) >= _order(self.least)]


def _sm80(entry, seconds, shared=("8.0", "8.6", "8.9", "9.0a")):
    return Unit("csrc/qattn/qk_int_sv_f16_cuda_sm80.cu", seconds, entry, (shared,))


def _sm89(name, seconds):
    return Unit(f"csrc/qattn/{name}.cu", seconds, shared=(("8.9", "9.0a"),))


def _preparation(entry=""):
    """Return what prepares Q, K and V: linked into each library, for its architectures only."""
    # float8 is an instruction from 8.9 on
    return (
        Unit("csrc/fused/prepare.cu", 4, entry, (("8.0", "8.6"), ("8.9", "9.0a", "12.0", "12.1"))),
        Unit("csrc/fused/finish.cu", 2, entry, (("8.0", "8.6", "8.9", "9.0a", "12.0", "12.1"),)),
    )


LIBRARIES = (
    Library(
        "_qattn_sm80",
        (
            Unit("csrc/qattn/register_sm80.cpp", 6),
            *_preparation(),
            _sm80("qk_int8_sv_f16_accum_f32_attn", 30),
            _sm80("qk_int8_sv_f16_accum_f16_attn", 30),
            _sm80("qk_int8_sv_f16_accum_f16_attn_inst_buf", 30),
            # 9.0 adds bfloat16 in another way
            _sm80("qk_int8_sv_f16_accum_f16_fuse_v_mean_attn", 30, shared=("8.0", "8.6", "8.9")),
        ),
    ),
    Library(
        "_qattn_sm89",
        (
            Unit("csrc/qattn/register_sm89.cpp", 6),
            *_preparation("sm89"),
            _sm89("sm89_qk_int8_sv_f8_accum_f32_attn_inst_buf", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f16_attn_inst_buf", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f32_attn", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f32_fuse_v_scale_fuse_v_mean_attn", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f32_fuse_v_scale_attn", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf", 30),
            _sm89("sm89_qk_int8_sv_f8_accum_f16_fuse_v_scale_attn_inst_buf", 30),
        ),
        least="8.9",
    ),
    Library(
        "_qattn_sm90",
        (
            Unit("csrc/qattn/register_sm90.cpp", 6),
            *_preparation("sm90"),
            Unit("csrc/qattn/qk_int_sv_f8_cuda_sm90.cu", 10),
        ),
        only="9.0a",
    ),
    Library(
        "_fused",
        (
            Unit("csrc/fused/register.cpp", 6),
            Unit("csrc/fused/fused.cu", 12, shared=(("8.0", "8.6"),)),
            *_preparation(),
        ),
    ),
)
COMMON = Unit("csrc/stable/torch.cpp", 5)  # linked into each

# torch's own headers need C++20 from 2.13 on; those of its stable ABI do not (2.10, 2.11 and 2.15 tried).
# C++17 asks for older symbols of libstdc++.
HOST_FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-DUSE_CUDA",
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
)
# Upstream's, for the same GPU code; but for -O3, which nvcc hands to the host compiler alone.
NVCC_FLAGS = (
    "-O1",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "--use_fast_math",
    "-diag-suppress=174",
    "-std=c++17",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden",
)
LINK_FLAGS = (
    "-shared",
    "-Wl,--as-needed",
    "-Wl,--no-undefined",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=none",
    "-Wl,--strip-all",
)


def _order(architecture):
    major, minor = architecture.rstrip("a").split(".")
    return int(major), int(minor)


def asked_architectures(text, cuda):
    """Parse TORCH_CUDA_ARCH_LIST; return the architectures in their one order.

    An architecture that the sources or the compiler of CUDA release `cuda` lack ends the build: none is
    dropped.
    """
    asked = set()
    for word in text.replace(",", ";").replace(" ", ";").split(";"):
        if not word:
            continue
        name = re.sub(r"^(?:sm_?|compute_?)", "", word.lower())
        if re.fullmatch(r"\d{2,3}[af]?", name):
            digits = name.rstrip("af")
            name = f"{digits[:-1]}.{digits[-1]}{name[len(digits) :]}"
        name = {"9.0": "9.0a"}.get(name, name)  # the Hopper kernels need the feature set of 9.0a
        if name not in ARCHITECTURES:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: {word!r} is not an architecture that SageAttention has kernels for: "
                f"{', '.join(ARCHITECTURES)}."
            )
        if cuda < ARCHITECTURES[name]:
            least = ".".join(map(str, ARCHITECTURES[name]))
            raise BuildError(f"Architecture {name} needs CUDA {least}; this is {cuda[0]}.{cuda[1]}.")
        asked.add(name)
    if not asked:
        raise BuildError("Set TORCH_CUDA_ARCH_LIST, for example to '8.0;8.6;8.9;9.0a;12.0'.")
    return sorted(asked, key=_order)


def version(upstream):
    """Return upstream's version with the local label, if one is asked for."""
    label = os.environ.get("SAGEATTENTION_LOCAL_VERSION", "")
    return f"{upstream}+{label}" if label else upstream


def requirements():
    """Return the wheel's requirements."""
    return [os.environ.get("SAGEATTENTION_TORCH_REQUIREMENT") or "torch>=2.8"]


def extensions():
    """Return the extensions that the asked architectures have, for setuptools to place and to count."""
    if "sdist" in sys.argv or "egg_info" in sys.argv or "dist_info" in sys.argv:
        return []
    toolkit = Toolkit()
    asked = asked_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), toolkit.version)
    return [
        Extension(f"sageattention.lib.{library.name}", [unit.source for unit in library.units])
        for library in LIBRARIES
        if library.architectures(asked)
    ]


class Toolkit:
    """The CUDA toolkit that CUDA_HOME names."""

    def __init__(self):
        home = os.environ.get("CUDA_HOME", "")
        self.home = Path(home)
        self.nvcc = self.home / "bin" / "nvcc"
        if not home or not self.nvcc.is_file():
            raise BuildError(f"CUDA_HOME is {home or 'not set'}: it must name a CUDA toolkit with bin/nvcc.")
        output = subprocess.run([self.nvcc, "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"release (\d+)\.(\d+)", output)
        if not found:
            raise BuildError(f"{self.nvcc} --version names no release.")
        self.version = (int(found[1]), int(found[2]))

    @property
    def includes(self):
        return [
            path for path in (self.home / "include", *self.home.glob("targets/*/include")) if path.is_dir()
        ]

    @property
    def libraries(self):
        names = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
        return [self.home / name for name in names if (self.home / name).is_dir()]

    def fatbin_flags(self):
        """Compress for size. The better mode is for drivers of 12.4 and later, which CUDA 13 implies."""
        if self.version >= (13, 0):
            return ["--compress-mode=size"]
        return ["-Xfatbin=-compress-all"]


class Pool:
    """Runs commands, several at a time, and stops all of them when one fails."""

    def __init__(self, jobs, launcher, events):
        self.jobs = jobs
        self.launcher = launcher
        self.events = events
        self.lock = threading.Lock()
        self.running = {}
        self.failure = None

    def event(self, **fields):
        if self.events:
            with self.lock, Path(self.events).open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")

    def run(self, work):
        """Run (name, command, output) triples in the order given; raise BuildError on the first failure."""
        queue = list(work)

        def worker():
            while True:
                with self.lock:
                    if self.failure or not queue:
                        return
                    name, command, output = queue.pop(0)
                self._one(name, command, output)

        threads = [threading.Thread(target=worker) for _ in range(min(self.jobs, len(queue)))]
        before = signal.signal(signal.SIGTERM, _terminate)
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            with self.lock:
                self.failure = self.failure or "interrupted"
                self._stop()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.failure:
            raise BuildError(self.failure)

    def _one(self, name, command, output):
        output.parent.mkdir(parents=True, exist_ok=True)
        log = ROOT / BUILD / (output.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        self.event(event="start", file=name, time=time.time())
        began = time.monotonic()
        with log.open("wb") as stream:
            with self.lock:
                if self.failure:
                    return
                process = subprocess.Popen(
                    [*self.launcher, *command],
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    cwd=ROOT,
                    start_new_session=True,
                )
                self.running[name] = process
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        with self.lock:
            del self.running[name]
        text = log.read_text(encoding="utf-8", errors="replace")
        self.event(
            event="done",
            file=name,
            seconds=round(time.monotonic() - began, 2),
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
            peak_memory_bytes=usage.ru_maxrss * 1024,
            ok=code == 0,
        )
        with self.lock:
            if self.failure:  # stopped because of another
                return
            print(f"$ {shlex.join(map(str, command))}\n{text}", end="", flush=True)
            if code:
                self.failure = f"{name}: {_how_it_ended(code, text)}\n{text}"
                self._stop()

    def _stop(self):
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def _terminate(number, _):
    """End as at Ctrl-C, so that the compilers, which are in groups of their own, are ended too."""
    raise SystemExit(128 + number)


def _how_it_ended(code, output):
    """Say which signal ended a compiler, its own or, as nvcc and g++ report it, one of its parts'."""
    part = re.search(
        r"died due to signal (\d+)|Killed signal|signal (\d+) \[|terminated by signal (\d+)", output
    )
    number = -code if code < 0 else code - 128 if 128 < code <= 128 + 64 else 0
    if part and not number:
        number = int(next((group for group in part.groups() if group), signal.SIGKILL))
    return f"killed by signal {number}" if number else f"exit status {code}"


class BuildExtensions(build_ext):
    """setuptools' build_ext, with the compiling and linking done by this module."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"

    def build_extensions(self):
        toolkit = Toolkit()
        asked = asked_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), toolkit.version)
        libraries = [library for library in LIBRARIES if library.architectures(asked)]
        jobs = int(os.environ.get("SAGEATTENTION_JOBS") or 1)
        pool = Pool(
            jobs,
            shlex.split(os.environ.get("SAGEATTENTION_LAUNCHER", "")),
            os.environ.get("SAGEATTENTION_EVENTS", ""),
        )
        compiles = {COMMON.name: (COMMON, [])}
        for library in libraries:
            for unit in library.units:
                compiles[unit.name] = (unit, library.architectures(asked))
        costs = _costs()
        # As of here, longest first: what is long and late leaves cores idle at the end.
        order = sorted(compiles.values(), key=lambda item: (-_cost(*item, costs), item[0].name))
        names = [unit.name for unit, _ in order] + [library.name for library in libraries]
        pool.event(event="plan", files=names, architectures=asked)
        print(f"architectures {' '.join(asked)}; {len(order)} sources, {jobs} at a time", flush=True)
        threads = max(1, jobs // len(order))
        pool.run(
            (unit.name, self._compile(unit, archs, toolkit, threads), ROOT / unit.object)
            for unit, archs in order
        )
        pool.launcher = []  # linking is not cached
        pool.run((library.name, *self._link(library, toolkit)) for library in libraries)

    def _compile(self, unit, architectures, toolkit, threads):
        torch = Path(_torch_folder())
        # Sources are named relative to the tree; of torch's headers, only where they lie in torch. The slash
        # ends the path for a launcher that puts another in its place, as compiler caches do.
        include = torch / "include"
        includes = [f"-I{include}", f"-ffile-prefix-map={include}/=torch/include/"]
        if unit.source.endswith(".cpp"):
            system = [word for path in toolkit.includes for word in ("-isystem", str(path))]
            host = os.environ.get("CXX") or "g++"
            return [
                *shlex.split(host),
                *HOST_FLAGS,
                *includes,
                *system,
                "-c",
                unit.source,
                "-o",
                str(unit.object),
            ]
        gencode = []
        for group in _groups(unit, architectures):
            codes = [f"sm_{_number(arch)}" for arch in group]
            if group[0] in WITH_PTX:
                codes.append(f"compute_{_number(group[0])}")
            gencode += ["-gencode", f"arch=compute_{_number(group[0])},code=[{','.join(codes)}]"]
        entry = [f"-DSAGEATTENTION_ENTRY_{unit.entry}"] if unit.entry else []
        # With more processes to spare than there are sources, one's architectures are compiled side by side.
        spread = [f"--threads={threads}"] if threads > 1 else []
        ccbin = ["-ccbin", os.environ["CXX"]] if os.environ.get("CXX") else []
        return [
            str(toolkit.nvcc), *ccbin, *spread, *NVCC_FLAGS, *toolkit.fatbin_flags(), *gencode, *entry,
            "-c", unit.source, "-o", str(unit.object),
        ]  # fmt: skip

    def _link(self, library, toolkit):
        output = Path(self.get_ext_fullpath(f"sageattention.lib.{library.name}")).resolve()
        objects = [str(unit.object) for unit in (*library.units, COMMON)]
        folders = [f"-L{path}" for path in (Path(_torch_folder()) / "lib", *toolkit.libraries)]
        host = shlex.split(os.environ.get("CXX") or "g++")
        command = [*host, *LINK_FLAGS, *objects, *folders, "-ltorch_cpu", "-ltorch_cuda", "-lcudart"]
        return [*command, "-o", str(output)], output


def _number(architecture):
    return architecture.replace(".", "")


def _groups(unit, architectures):
    """Return lists of architectures whose GPU code is made from one PTX, that of the first."""
    groups = [[arch for arch in architectures if arch in group] for group in unit.shared]
    alone = [[arch] for arch in architectures if not any(arch in group for group in groups)]
    return [group for group in groups if group] + alone


def _cost(unit, architectures, costs):
    return costs.get(unit.name, unit.seconds * max(1, len(architectures)))


def _costs():
    path = os.environ.get("SAGEATTENTION_COSTS", "")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        return {str(name): float(seconds) for name, seconds in data.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        print(f"SAGEATTENTION_COSTS is not used: {error}", flush=True)
        return {}


def _torch_folder():
    """Return torch's folder."""
    if os.environ.get("SAGEATTENTION_TORCH"):
        return os.environ["SAGEATTENTION_TORCH"]
    spec = importlib.util.find_spec("torch")  # not imported: that takes seconds
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed: its headers and libraries are needed to build.")
    return Path(spec.origin).parent


class Wheel(bdist_wheel):
    """setuptools' bdist_wheel, with the tag that SAGEATTENTION_ABI asks for."""

    def finalize_options(self):
        abi = os.environ.get("SAGEATTENTION_ABI") or "native"
        if abi not in ("native", "stable"):
            raise BuildError(f"SAGEATTENTION_ABI is {abi!r}, not native or stable.")
        if abi == "stable":
            self.py_limited_api = "cp310"
        super().finalize_options()


COMMANDS = {"build_ext": BuildExtensions, "bdist_wheel": Wheel}
