"""Who provides a library in the process, and which symbols are too new for a tag."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.libraries import compile_library

from builder.wheel.elf import SharedLibrary, read_elf
from builder.wheel.libraries import (
    CUDA_RUNTIME,
    DRIVER,
    PYTHON,
    SYSTEM,
    TORCH,
    TORCH_CUDA,
    load_policy,
    owner_of,
    reached_tag,
    too_new,
)

POLICY = load_policy("manylinux_2_34_x86_64")


@pytest.mark.parametrize(
    ("soname", "owner"),
    [
        ("libc.so.6", SYSTEM),
        ("libstdc++.so.6", SYSTEM),
        ("ld-linux-x86-64.so.2", SYSTEM),
        ("libtorch_cuda_linalg.so", TORCH),
        ("libc10_cuda.so", TORCH),
        ("libcuda.so.1", DRIVER),
        ("libcudart.so.13", CUDA_RUNTIME),
        ("libcublasLt.so.12", TORCH_CUDA),
        ("libpython3.12.so.1.0", PYTHON),
        ("libgomp.so.1", None),
    ],
)
def test_who_provides_a_library(soname: str, owner: object) -> None:
    assert owner_of(soname, POLICY.whitelist) is owner


def requiring(folder: Path, version: str, soname: str = "libc.so.6") -> SharedLibrary:
    libc = compile_library(folder / version / soname, "int there() { return 0; }", version=version)
    code = "extern int there(); int go() { return there(); }"
    return read_elf(compile_library(folder / version / "user.so", code, libc).read_bytes())


def test_symbols_that_are_too_new(tmp_path: Path) -> None:
    assert too_new(requiring(tmp_path, "GLIBC_2.34"), POLICY) == []
    assert too_new(requiring(tmp_path, "GLIBC_2.38"), POLICY) == ["GLIBC_2.38 of libc.so.6 (there)"]
    newer = requiring(tmp_path, "GLIBCXX_3.4.30", "libstdc++.so.6")
    assert too_new(newer, POLICY) == ["GLIBCXX_3.4.30 of libstdc++.so.6 (there)"]
    assert too_new(requiring(tmp_path, "libcudart.so.13", "libcudart.so.13"), POLICY) == []


def test_the_tag_that_symbols_reach(tmp_path: Path) -> None:
    machine = "x86_64" if requiring(tmp_path, "GLIBC_2.2.5").machine == "x64" else "aarch64"
    old, new = requiring(tmp_path, "GLIBC_2.17"), requiring(tmp_path, "GLIBC_2.32")
    assert reached_tag([old]) == f"manylinux_2_17_{machine}"
    assert reached_tag([old, new]) == f"manylinux_2_34_{machine}"
    assert reached_tag([requiring(tmp_path, "GLIBC_2.99")]) == ""
