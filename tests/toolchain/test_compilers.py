"""Which variables a build gets: its own compilers' and nothing that the user's environment would add."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from made_up_tools import program

from builder.toolchain.compilers import Toolchain, build_environment


def test_a_nvcc_on_path_is_not_picked_up(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    decoy = program(tmp_path / "decoy" / "nvcc", "#!/bin/sh\necho decoy\n")
    program(tmp_path / "decoy" / "gcc", "#!/bin/sh\necho decoy\n")
    made = have()
    env = build_environment(made, {"PATH": f"{decoy.parent}:/usr/bin:/bin"})
    assert str(decoy.parent) not in env["PATH"].split(":")
    where = "command -v nvcc; command -v gcc; gcc -dumpfullversion"
    found = subprocess.run(["/bin/sh", "-c", where], env=env, capture_output=True, text=True, check=True)
    nvcc, gcc, version = found.stdout.split()
    assert Path(nvcc) == made.nvcc
    assert Path(gcc) == made.host_bin / "gcc"
    assert version == "12.2.0"


def test_a_decoy_beside_the_host_compiler_is_not_picked_up(
    have: Callable[..., Toolchain], tmp_path: Path
) -> None:
    program(tmp_path / "hostbin" / "nvcc", "#!/bin/sh\necho decoy\n")
    made = have()
    env = build_environment(made, {})
    found = subprocess.run(
        ["/bin/sh", "-c", "command -v nvcc"], env=env, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == made.nvcc


def test_the_users_compiler_variables_stay_out(have: Callable[..., Toolchain]) -> None:
    theirs = {
        "NVCC_APPEND_FLAGS": "-G",
        "NVCC_PREPEND_FLAGS": "-O0",
        "NVCC_CCBIN": "/their/g++",
        "CPATH": "/their/include",
        "CPLUS_INCLUDE_PATH": "/their/include",
        "LIBRARY_PATH": "/their/lib",
        "LD_LIBRARY_PATH": "/their/lib",
        "LD_PRELOAD": "/their/lib.so",
        "CFLAGS": "-O0",
        "CXXFLAGS": "-O0",
        "LDFLAGS": "-lm",
        "MAKEFLAGS": "-j",
        "PYTHONPATH": "/their/python",
        "CCACHE_DIR": "/their/cache",
        "TORCH_CUDA_ARCH_LIST": "5.0",
        "CUDA_PATH": "/their/cuda",
        "GCC_EXEC_PREFIX": "/their",
        "HOME": "/home/them",
        "TMPDIR": "/their/tmp",
    }
    env = build_environment(have(), theirs)
    assert {name: value for name, value in env.items() if "their" in value} == {"TMPDIR": "/their/tmp"}
    assert not {"NVCC_APPEND_FLAGS", "CFLAGS", "TORCH_CUDA_ARCH_LIST"} & set(env)


def test_the_users_options_for_setuptools_stay_out(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    (tmp_path / ".pydistutils.cfg").write_text("[bdist_wheel]\nbuild_number = 7\n")
    env = build_environment(have(), {"HOME": str(tmp_path)})
    code = "import setuptools; print(setuptools.Distribution().find_config_files())"
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ".pydistutils.cfg" not in found.stdout
