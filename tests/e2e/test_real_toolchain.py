"""The real packages' compiler: put together, kept apart from what else is installed, and cached.

No GPU and no CUDA toolkit is needed; the default package index is.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.compile import pep517
from builder.compile.ccache import Stats, open_cache
from builder.target.architectures import Selection
from builder.target.options import BuildOptions
from builder.target.targets import Target, load_targets
from builder.toolchain import torch_env
from builder.toolchain.cuda_home import Toolchain, resolve
from builder.toolchain.gxx import find_gxx, newest_accepted
from builder.wheel.elf import read_elf

pytestmark = pytest.mark.e2e

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
def sites(target: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The folders with torch and the compiler's packages."""
    root = tmp_path_factory.mktemp("packages")
    version = torch_env.install(target, BuildOptions(cache_dir=root), root)
    assert version.startswith("2.11.0")
    return torch_env.sites(target, root)


@pytest.fixture(scope="module")
def tools(target: Target, sites: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    """The compiler of CUDA 13.0, put together in an empty cache."""
    options = BuildOptions(cache_dir=tmp_path_factory.mktemp("cache"))
    return resolve(target, options, sites, find_gxx(target.cuda, os.environ))


Compile = Callable[..., Stats]


@pytest.fixture
def compile_in(target: Target, sites: tuple[Path, ...], tools: Toolchain, tmp_path: Path) -> Compile:
    """Compile a.cu of a tree as a build does, in an environment in which the user's nvcc comes first."""
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
    selection = Selection(target.architectures, "all", complete=True)

    def call(tree: Path, *flags: str, used: Toolchain = tools, **options: object) -> Stats:
        asked = BuildOptions(**{"cache_dir": tmp_path / "cache", **options})  # type: ignore[arg-type]
        cache = open_cache(asked, used.identity, tree)
        shutil.rmtree(tree / ".toolchain", ignore_errors=True)
        settings = pep517.write_settings(
            tree, target, selection, used, torch=sites[0] / "torch", jobs=1, launcher=cache.launcher
        )
        env = pep517.environment(used, theirs, settings=settings, machine="x86_64", epoch=0, hash_seed=0)
        command = [*cache.launcher, ".toolchain/cuda/bin/nvcc", "-ccbin", str(used.gxx.path), "-std=c++17"]
        command += ["-Xcompiler=-fPIC", "-DUSE_CUDA", "-I.toolchain/torch/include", *flags]
        command += ["-c", "a.cu", "-o", "a.o", "-MD", "-MF", "a.o.d"]
        subprocess.run(command, cwd=tree, env={**env, **cache.env}, check=True)
        return cache.stats()

    return call


def tree_of(folder: Path, source: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.cu").write_text(source)
    return folder


def test_the_packages_compiler_compiles_for_every_architecture(
    tools: Toolchain, target: Target, compile_in: Compile, tmp_path: Path
) -> None:
    tree = tree_of(tmp_path / "tree", KERNEL)
    numbers = [architecture.number for architecture in target.architectures]
    compile_in(tree, *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers))
    link = [str(tools.gxx.path), "-shared", "a.o", f"-L{tools.cuda_home}/lib64", "-lcudart", "-o", "a.so"]
    subprocess.run(link, cwd=tree, check=True)
    assert "libcudart.so.13" in read_elf((tree / "a.so").read_bytes()).needed


def test_it_is_the_targets_and_outlives_its_environment(
    tools: Toolchain, target: Target, sites: tuple[Path, ...]
) -> None:
    assert tools.nvcc_version.startswith(f"{target.cuda}.")
    assert not [path for path in tools.cuda_home.rglob("*") if sites[0] in path.resolve().parents]


def test_the_newest_gcc_is_the_one_that_nvcc_itself_names(tools: Toolchain) -> None:
    text = (tools.cuda_home / "include" / "crt" / "host_config.h").read_text()
    match = re.search(r"^#if __GNUC__ > (\d+)$", text, re.MULTILINE)
    assert match
    assert newest_accepted(tools.nvcc_version) == int(match[1])


def test_a_compile_is_found_again_from_elsewhere_for_little(compile_in: Compile, tmp_path: Path) -> None:
    one, two = tree_of(tmp_path / "one", KERNEL), tree_of(tmp_path / "two", KERNEL)
    gencode = "-gencode=arch=compute_90a,code=sm_90a"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert compile_in(one, gencode) == Stats(0, 1)
    cold = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert compile_in(two, gencode) == Stats(1, 0)
    warm = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (one / "a.o").read_bytes() == (two / "a.o").read_bytes()
    assert warm.ru_utime - cold.ru_utime <= 0.05 * (cold.ru_utime - before.ru_utime)
    assert compile_in(two, "-gencode=arch=compute_80,code=sm_80") == Stats(0, 1)


def test_a_compile_is_found_again_on_another_machine(
    tools: Toolchain, target: Target, sites: tuple[Path, ...], compile_in: Compile, tmp_path: Path
) -> None:
    remote, gencode = f"file://{tmp_path}/shared", "-gencode=arch=compute_90a,code=sm_90a"
    one, two = tree_of(tmp_path / "one", KERNEL), tree_of(tmp_path / "another" / "deeper", KERNEL)
    assert compile_in(one, gencode, cache_remote=remote).misses == 1
    theirs = tmp_path / "another" / "cache"
    used = resolve(target, BuildOptions(cache_dir=theirs), sites, tools.gxx)
    assert used.cuda_home != tools.cuda_home
    stats = compile_in(two, gencode, used=used, cache_dir=theirs, cache_remote=remote)
    assert (stats.hits, stats.remote_hits, stats.misses) == (1, 1, 0)
    assert (one / "a.o").read_bytes() == (two / "a.o").read_bytes()


@pytest.mark.parametrize("changed", ["host.h", "sm80.h", "sm90.h"])
def test_a_change_that_only_one_of_nvccs_passes_sees_is_a_miss(
    compile_in: Compile, tmp_path: Path, changed: str
) -> None:
    tree = tree_of(tmp_path / "tree", PASSES)
    for name in ("host.h", "sm80.h", "sm90.h"):
        (tree / name).write_text("#define VALUE 1\n")
    gencode = ("-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a")
    assert compile_in(tree, *gencode) == Stats(0, 1)
    first = (tree / "a.o").read_bytes()
    assert compile_in(tree, *gencode) == Stats(1, 0)
    assert (tree / "a.o").read_bytes() == first
    (tree / changed).write_text("#define VALUE 2\n")
    assert compile_in(tree, *gencode) == Stats(0, 1)
