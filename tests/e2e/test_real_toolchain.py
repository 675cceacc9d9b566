"""The real packages' compiler: put together, kept apart from what else is installed, and cached.

No GPU and no CUDA toolkit is needed; the default package index is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from builder.compile.compiler_cache import Stats, open_cache, use_ccache
from builder.toolchain.choice import resolve
from builder.toolchain.compilers import Toolchain, build_environment

from builder.target.options import BuildOptions
from builder.target.targets import Target, load_targets
from builder.toolchain import host_compiler as host
from builder.toolchain import torch_packages
from builder.wheel.elf import read_elf

pytestmark = pytest.mark.e2e

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))

KERNEL = """\
#include <torch/csrc/stable/tensor.h>
#include <cuda_fp16.h>
__global__ void scale(__half* x) { x[threadIdx.x] = __hmul(x[threadIdx.x], __float2half(2.0f)); }
void run(torch::stable::Tensor x) {
  STD_TORCH_CHECK(x.is_cuda(), "x must be on the GPU");
  scale<<<1, 32>>>(static_cast<__half*>(x.data_ptr()));
}
"""

# Each of nvcc's passes over it includes another file.
PASSES = """\
#if !defined(__CUDA_ARCH__)
#include "host.h"
#elif __CUDA_ARCH__ == 800
#include "sm80.h"
#else
#include "sm90.h"
#endif
__global__ void kernel(int* x) {
#ifdef __CUDA_ARCH__
  *x = VALUE;
#endif
}
int on_host() {
#ifdef __CUDA_ARCH__
  return 0;
#else
  return VALUE;
#endif
}
"""


@pytest.fixture(scope="module")
def target() -> Target:
    return load_targets()["cp312-cu130"]


@pytest.fixture(scope="module")
def tools(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    """The compiler of CUDA 13.0, put together in an empty cache."""
    options = BuildOptions(cache_dir=tmp_path_factory.mktemp("cache"))
    version = torch_packages.install(target, options, Path(sys.executable))
    assert version.startswith("2.11.0")
    return resolve(target, options, [SITE_PACKAGES])


@pytest.fixture
def env(tools: Toolchain, tmp_path: Path) -> dict[str, str]:
    """A build's environment, made of one in which a nvcc of the user's comes first."""
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    for name in ("nvcc", "gcc", "g++", "cicc", "ptxas"):
        (decoy / name).write_text("#!/bin/sh\necho decoy >&2\nexit 1\n")
        (decoy / name).chmod(0o755)
    theirs = {
        **os.environ,
        "PATH": f"{decoy}:{os.environ['PATH']}",
        "CUDA_HOME": str(decoy),
        "CPATH": str(decoy),
    }
    return build_environment(tools, theirs)


def compile_command(tools: Toolchain, *flags: str) -> list[str]:
    """nvcc's command for a.cu of the current folder."""
    includes = [f"-I{SITE_PACKAGES / 'torch' / 'include'}"]
    return [
        str(tools.nvcc),
        "-std=c++17",
        "-Xcompiler=-fPIC",
        "-DUSE_CUDA",
        *includes,
        *flags,
        "-c",
        "a.cu",
        "-o",
        "a.o",
    ]


def test_the_packages_compiler_compiles_for_every_architecture(
    tools: Toolchain, target: Target, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.cu").write_text(KERNEL)
    gencode = [word for arch in target.architectures for word in ("-gencode", arch.gencode)]
    subprocess.run(compile_command(tools, *gencode), cwd=tmp_path, env=env, check=True)
    link = [
        env["CXX"],
        "-shared",
        "a.o",
        f"-L{tools.cuda_home}/lib64",
        "-lcudart",
        "-Wl,--no-as-needed",
        "-lcuda",
    ]
    subprocess.run([*link, "-o", "a.so"], cwd=tmp_path, env=env, check=True)
    needed = set(read_elf((tmp_path / "a.so").read_bytes()).needed)
    assert {"libcudart.so.13", "libcuda.so.1"} <= needed


def test_it_is_the_targets_and_outlives_its_environment(tools: Toolchain, target: Target) -> None:
    assert tools.nvcc_version.startswith(f"{target.cuda}.")
    assert tools.origin == "packages"
    assert not [path for path in tools.cuda_home.rglob("*") if SITE_PACKAGES in path.resolve().parents]
    names = {part.name for part in tools.components}
    assert {
        "nvidia-cuda-nvcc",
        "nvidia-nvvm",
        "nvidia-cuda-crt",
        "nvidia-cuda-cccl",
        "nvidia-cuda-runtime",
    } <= names


def test_the_newest_gcc_is_the_one_that_nvcc_itself_names(tools: Toolchain) -> None:
    text = (tools.cuda_home / "include" / "crt" / "host_config.h").read_text()
    match = re.search(r"^#if __GNUC__ > (\d+)$", text, re.MULTILINE)
    assert match
    assert host.supported_gcc(tools.nvcc_version).newest == int(match[1])


def _cached(
    tools: Toolchain, env: dict[str, str], cache: Path, tree: Path, *flags: str
) -> tuple[Stats, float]:
    """Compile a.cu of a tree through the cache; returns what the cache did, and the CPU seconds."""
    headers = {SITE_PACKAGES / "torch" / "include": "torch"}
    with use_ccache(cache, "1G", identity=tools.identity, tree=tree, aliases=headers) as ours:
        command = [*ours.launcher, *compile_command(tools, *flags)]
        process = subprocess.Popen(command, cwd=tree, env={**env, **ours.env})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return ours.stats(), usage.ru_utime + usage.ru_stime


def test_a_compile_is_found_again_from_elsewhere_for_little(
    tools: Toolchain, env: dict[str, str], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cu").write_text(KERNEL)
    gencode = "-gencode=arch=compute_90a,code=sm_90a"
    stats, cold = _cached(tools, env, tmp_path / "cache", tmp_path / "one", gencode)
    assert stats == Stats(0, 1)
    stats, warm = _cached(tools, env, tmp_path / "cache", tmp_path / "two", gencode)
    assert stats == Stats(1, 0)
    assert (tmp_path / "one" / "a.o").read_bytes() == (tmp_path / "two" / "a.o").read_bytes()
    assert warm <= 0.05 * cold
    stats, _ = _cached(
        tools, env, tmp_path / "cache", tmp_path / "two", "-gencode=arch=compute_80,code=sm_80"
    )
    assert stats == Stats(0, 1)


def test_a_compile_is_found_again_on_another_machine(
    tools: Toolchain, target: Target, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    objects = []
    for machine, toolkit in (("one", tools), ("another/deeper", None)):
        home = tmp_path / machine
        options = BuildOptions(cache_dir=home / "cache", cache_remote=f"file://{tmp_path}/shared")
        used = toolkit or resolve(target, options, [SITE_PACKAGES])
        tree = home / "tree"
        tree.mkdir(parents=True)
        (tree / "a.cu").write_text(KERNEL)
        with open_cache(options, used, tree, SITE_PACKAGES) as cache:
            command = [*cache.launcher, *compile_command(used, "-gencode=arch=compute_90a,code=sm_90a")]
            subprocess.run(command, cwd=tree, env={**env, **cache.env}, check=True)
            found = cache.stats()
        assert (found.hits, found.remote_hits, found.misses) == ((0, 0, 1) if toolkit else (1, 1, 0))
        objects.append((tree / "a.o").read_bytes())
    assert used.cuda_home != tools.cuda_home
    assert objects[0] == objects[1]


@pytest.mark.parametrize("changed", ["host.h", "sm80.h", "sm90.h"])
def test_a_change_that_only_one_of_nvccs_passes_sees_is_a_miss(
    tools: Toolchain, env: dict[str, str], tmp_path: Path, changed: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.cu").write_text(PASSES)
    for name in ("host.h", "sm80.h", "sm90.h"):
        (tree / name).write_text("#define VALUE 1\n")
    gencode = ("-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a")
    assert _cached(tools, env, tmp_path / "cache", tree, *gencode)[0] == Stats(0, 1)
    first = (tree / "a.o").read_bytes()
    assert _cached(tools, env, tmp_path / "cache", tree, *gencode)[0] == Stats(1, 0)
    assert (tree / "a.o").read_bytes() == first
    (tree / changed).write_text("#define VALUE 2\n")
    assert _cached(tools, env, tmp_path / "cache", tree, *gencode)[0] == Stats(0, 1)
