# SPDX-License-Identifier: Apache-2.0
"""Builds the extensions: shared libraries of operators on torch's stable ABI, without Python in them.

This is where compiling happens: setuptools calls `BuildExtensions`, which writes a build.ninja for all
sources of all extensions, longest first, and runs ninja. The environment variable SAGEATTENTION_BUILD names a
JSON file that says what to build, and nothing else does:

    architectures   list, such as ["8.0", "8.6", "8.9", "9.0a", "12.0"]
    cuda_home       folder of the CUDA toolkit
    cxx             host compiler
    torch           folder of the torch to build with, which need not be for this machine
    jobs            compiler processes at a time
    launcher        command to put before each compiler, such as ["ccache"]; empty for none
    local_version   local version label, such as "cu130.torch2.11"
    requirement     of torch, such as "torch==2.11.*"
    abi             "native" (one Python and torch) or "stable" (tag py3-none)

Folders may be relative to the tree; commands name them as they are given.
"""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = Path("build/objects")

# Architecture -> the lowest CUDA release that compiles these sources for it.
ARCHITECTURES = {
    "8.0": (12, 0),
    "8.6": (12, 0),
    "8.9": (12, 4),
    "9.0a": (12, 3),
    "12.0": (12, 8),
    "12.1": (12, 9),
}

# Extension -> what it is compiled for: architectures from one on, or one alone.
LEAST = {"_qattn_sm80": "8.0", "_qattn_sm89": "8.9", "_fused": "8.0"}
ONLY = {"_qattn_sm90": "9.0a"}  # its code uses what only 9.0a has

# The PTX of these goes along, for GPUs that are newer than all: the fp16 kernels' and the fp8 kernels'.
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
    each one's own (compared for CUDA 13.0), and half of the time is spared. An architecture for which the
    sources or CUDA's headers have different code than for the first is in no group.
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
    """One extension."""

    name: str
    units: tuple

    def architectures(self, wanted):
        if self.name in ONLY:
            return [arch for arch in wanted if arch == ONLY[self.name]]
        return [arch for arch in wanted if _order(arch) >= _order(LEAST[self.name])]


def _sm80(entry, shared=("8.0", "8.6", "8.9", "9.0a")):
    return Unit("csrc/qattn/qk_int_sv_f16_cuda_sm80.cu", 30, f"qk_int8_sv_f16_{entry}", (shared,))


def _sm89(name):
    return Unit(f"csrc/qattn/sm89_qk_int8_sv_f8_{name}.cu", 30, shared=(("8.9", "9.0a"),))


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
            _sm80("accum_f32_attn"),
            _sm80("accum_f16_attn"),
            _sm80("accum_f16_attn_inst_buf"),
            # 9.0 adds bfloat16 in another way
            _sm80("accum_f16_fuse_v_mean_attn", shared=("8.0", "8.6", "8.9")),
        ),
    ),
    Library(
        "_qattn_sm89",
        (
            Unit("csrc/qattn/register_sm89.cpp", 6),
            *_preparation("sm89"),
            _sm89("accum_f32_attn_inst_buf"),
            _sm89("accum_f16_attn_inst_buf"),
            _sm89("accum_f32_attn"),
            _sm89("accum_f32_fuse_v_scale_fuse_v_mean_attn"),
            _sm89("accum_f32_fuse_v_scale_attn"),
            _sm89("accum_f32_fuse_v_scale_attn_inst_buf"),
            _sm89("accum_f16_fuse_v_scale_attn_inst_buf"),
        ),
    ),
    Library(
        "_qattn_sm90",
        (
            Unit("csrc/qattn/register_sm90.cpp", 6),
            *_preparation("sm90"),
            Unit("csrc/qattn/qk_int_sv_f8_cuda_sm90.cu", 10),
        ),
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
COMMON = (Unit("csrc/stable/torch.cpp", 5), Unit("csrc/stable/older_systems.cpp", 1))  # linked into each

# torch's own headers need C++20 from 2.13 on; those of its stable ABI do not (2.10, 2.11 and 2.15 tried).
# C++17 asks for older symbols of libstdc++.
HOST_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-DUSE_CUDA"),
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
)
# Upstream's, for the same GPU code; but for -O3, which nvcc hands to the host compiler alone.
NVCC_FLAGS = (
    *("-O1", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__", "--use_fast_math"),
    *("-diag-suppress=174", "-std=c++17"),
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden",
)
LINK_FLAGS = ("-shared", "-Wl,--as-needed,--no-undefined,-z,noexecstack,--build-id=none,--strip-all")


def _order(architecture):
    major, minor = architecture.rstrip("a").split(".")
    return int(major), int(minor)


def settings():
    """Return what the file that SAGEATTENTION_BUILD names says."""
    path = os.environ.get("SAGEATTENTION_BUILD", "")
    if not path:
        raise BuildError("SAGEATTENTION_BUILD must name a file: build_extensions.py says what is in it.")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def checked_architectures(names, cuda):
    """Return architectures in their one order.

    One that the sources or the compiler of CUDA release `cuda` lack ends the build: none is dropped.
    """
    for name in names:
        if name not in ARCHITECTURES:
            raise BuildError(f"SageAttention has kernels for {', '.join(ARCHITECTURES)}, not for {name!r}.")
        if cuda < ARCHITECTURES[name]:
            least = ".".join(map(str, ARCHITECTURES[name]))
            raise BuildError(f"Architecture {name} needs CUDA {least}; this is {cuda[0]}.{cuda[1]}.")
    if not names:
        raise BuildError("No architecture to build for.")
    return sorted(set(names), key=_order)


def version(upstream):
    label = settings()["local_version"]
    return f"{upstream}+{label}" if label else upstream


def requirements():
    return [settings()["requirement"]]


def extensions():
    """Return the extensions that the architectures have, for setuptools to place and to count."""
    wanted = settings()["architectures"]
    return [
        Extension(f"sageattention.lib.{library.name}", [unit.source for unit in library.units])
        for library in LIBRARIES
        if library.architectures(wanted)
    ]


class BuildExtensions(build_ext):
    """setuptools' build_ext, with the compiling and linking done by ninja."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"

    def build_extensions(self):
        compilers = Compilers(settings())
        wanted = checked_architectures(compilers.architectures, compilers.cuda)
        libraries = [library for library in LIBRARIES if library.architectures(wanted)]
        compiles = {unit.name: (unit, []) for unit in COMMON}
        for library in libraries:
            for unit in library.units:
                compiles[unit.name] = (unit, library.architectures(wanted))
        # Longest first: what is long and late leaves cores idle at the end. Of edges that are as far from
        # the end, ninja starts them in the order of the file.
        seconds = {unit.name: unit.seconds * (len(archs) or 1) for unit, archs in compiles.values()}
        order = sorted(compiles.values(), key=lambda item: (-seconds[item[0].name], item[0].name))
        # With more processes to spare than there are sources, one's architectures are compiled side by side.
        threads = max(1, compilers.jobs // len(order))
        steps = [(u.name, u.object, [u.source], compilers.compile(u, archs, threads)) for u, archs in order]
        for library in libraries:
            output = Path(self.get_ext_fullpath(f"sageattention.lib.{library.name}")).resolve()
            output.parent.mkdir(parents=True, exist_ok=True)
            objects = [unit.object for unit in (*library.units, *COMMON)]
            steps.append((library.name, output, objects, compilers.link(objects, output)))
        (ROOT / BUILD).mkdir(parents=True, exist_ok=True)
        (ROOT / BUILD / "build.ninja").write_text(ninja_file(steps), encoding="utf-8")
        print(f"architectures {' '.join(wanted)}; {len(order)} sources, {compilers.jobs} at a time")
        for _, _, _, command in steps:
            print(f"$ {shlex.join(command)}", flush=True)
        ninja = ["ninja", "-f", str(BUILD / "build.ninja"), "-j", str(compilers.jobs)]
        if status := subprocess.run(ninja, cwd=ROOT, check=False).returncode:
            raise BuildError(f"ninja ended with exit status {status}.")


def ninja_file(steps):
    """Return the build.ninja of steps (name, output, inputs, command); ninja prints the name at the end."""
    lines = [f"builddir = {BUILD}", "rule run", "  command = $step", "  description = $name"]
    for name, output, inputs, command in steps:
        lines.append(f"build {_escaped(output)}: run {' '.join(map(_escaped, inputs))}")
        lines.append(f"  name = {name.replace('$', '$$')}")
        lines.append(f"  step = {shlex.join(command).replace('$', '$$')}")
    return "\n".join(lines) + "\n"


def _escaped(path):
    return re.sub(r"[$ :]", r"$\g<0>", str(path))


class Compilers:
    """The commands of a build: nvcc's and the host compiler's."""

    def __init__(self, told):
        self.architectures, self.jobs = told["architectures"], told["jobs"]
        self.home, self.torch = Path(told["cuda_home"]), Path(told["torch"])
        self.cxx, self.launcher = told["cxx"], told["launcher"]
        self.nvcc = str(self.home / "bin" / "nvcc")
        output = subprocess.run([self.nvcc, "--version"], check=True, capture_output=True, text=True).stdout
        release = re.search(r"release (\d+)\.(\d+)", output)
        if not release:
            raise BuildError(f"{self.nvcc} --version names no release.")
        self.cuda = (int(release[1]), int(release[2]))

    def compile(self, unit, architectures, threads):
        """Return the command that compiles a unit."""
        include = self.torch / "include"
        # A compiler cache takes the list of included files, of all of nvcc's passes.
        output = ["-c", unit.source, "-o", str(unit.object), "-MD", "-MF", f"{unit.object}.d"]
        if unit.source.endswith(".cpp"):
            folders = (self.home / "include", *self.home.glob("targets/*/include"))
            system = [word for path in folders if path.is_dir() for word in ("-isystem", str(path))]
            prefix = [f"-I{include}", f"-ffile-prefix-map={include}/=torch/include/"]
            return [*self.launcher, self.cxx, *HOST_FLAGS, *prefix, *system, *output]
        gencode = []
        for group in _groups(unit, architectures):
            numbers = [arch.replace(".", "") for arch in group]
            codes = [f"sm_{number}" for number in numbers]
            codes += [f"compute_{numbers[0]}"] if group[0] in WITH_PTX else []
            gencode += ["-gencode", f"arch=compute_{numbers[0]},code=[{','.join(codes)}]"]
        # The better mode needs a driver of 12.4 or later, which CUDA 13 implies.
        compress = "--compress-mode=size" if self.cuda >= (13, 0) else "-Xfatbin=-compress-all"
        entry = [f"-DSAGEATTENTION_ENTRY_{unit.entry}"] if unit.entry else []
        spread = [f"--threads={threads}"] if threads > 1 else []
        nvcc = [*self.launcher, self.nvcc, "-ccbin", self.cxx, *spread, *NVCC_FLAGS, compress]
        return [*nvcc, *gencode, *entry, *output]

    def link(self, objects, output):
        """Return the command that links a library; no launcher, since linking is not cached."""
        homes = (self.home / "lib64", self.home / "lib", *self.home.glob("targets/*/lib"))
        folders = [self.torch / "lib", *(path for path in homes if path.is_dir())]
        command = [self.cxx, *LINK_FLAGS, *map(str, objects), *(f"-L{path}" for path in folders)]
        return [*command, "-ltorch_cpu", "-ltorch_cuda", "-lcudart", "-o", str(output)]


def _groups(unit, architectures):
    """Return lists of architectures whose GPU code is made from one PTX, that of the first."""
    groups = [[arch for arch in architectures if arch in group] for group in unit.shared]
    alone = [[arch] for arch in architectures if not any(arch in group for group in groups)]
    return [group for group in groups if group] + alone


class Wheel(bdist_wheel):
    """setuptools' bdist_wheel, with a tag for any Python where the extensions fit any torch."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if settings()["abi"] == "stable" else (python, abi, platform)


COMMANDS = {"build_ext": BuildExtensions, "bdist_wheel": Wheel}
