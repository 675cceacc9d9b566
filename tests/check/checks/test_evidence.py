"""What a file's name, bytes and symbols give away."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_libraries import Elf, make_elf

from builder.check.checks.evidence import (
    build_paths,
    owner_of_copy,
    stable_torch_symbols,
    unlimited_python_symbols,
    unstable_torch_symbols,
)
from builder.wheel.elf import read_elf
from builder.wheel.libraries import CUDA_RUNTIME, DRIVER, PYTHON, TORCH, TORCH_CUDA

UNSTABLE = [
    "_ZN2at6detail10noopDeleteEPv",
    "_ZNK3c1010TensorImpl5sizesEv",
    "_ZN5torch8autograd3goEv",
    "_Z3fooRKN2at6TensorE",
]
NOT_UNSTABLE = [
    "_ZNSt6vectorIiE3endEv",
    "_ZN12at_something3goEv",
    "aoti_torch_get_sizes",
    "torch_call_dispatcher",
    "cudaMalloc",
    "at_exit",
]


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("torch/lib/libtorch.so", TORCH),
        ("x.libs/libtorch_python-1a2b3c4d.so", TORCH),
        ("x.libs/libcuda-1a2b3c4d.so.1", DRIVER),
        ("x.libs/libcudnn-1a2b3c4d.so.9", TORCH_CUDA),
        ("x.libs/libpython3-1a2b3c4d.so", PYTHON),
        ("x.libs/libcudart-1a2b3c4d.so.13", CUDA_RUNTIME),
        ("sageattention/lib/_fused.so", None),
        ("sageattention/libtorch.py", None),
    ],
)
def test_who_brings_the_library_that_a_file_is_a_copy_of(name: str, owner: object) -> None:
    assert owner_of_copy(name) is owner


def test_symbols_of_torch() -> None:
    library = read_elf(make_elf(Elf(undefined=UNSTABLE + NOT_UNSTABLE, defined=["_ZN5torch6stable2goEv"])))
    assert set(unstable_torch_symbols(library)) == set(UNSTABLE)
    assert stable_torch_symbols(library) == ("aoti_torch_get_sizes", "torch_call_dispatcher")


def test_symbols_of_python() -> None:
    names = [
        "PyObject_Call",
        "PyType_FromSpec",
        "_PyObject_GC_New",
        "PyUnicode_AsUTF8AndSize",
        "PyObject_Vectorcall",
        "PyTuple_Type",
        "Pyramid",
    ]
    library = read_elf(make_elf(Elf(undefined=names)))
    pytest.importorskip("abi3info")
    assert unlimited_python_symbols(library, (3, 10)) == ("PyObject_Vectorcall",)
    assert unlimited_python_symbols(library, (3, 9)) == ("PyObject_Vectorcall", "PyUnicode_AsUTF8AndSize")
    assert unlimited_python_symbols(library, (3, 12)) == ()
    assert unlimited_python_symbols(read_elf(make_elf(Elf())), (3, 10)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "/usr/include/c++/12/bits/stl_vector.h",
        "/usr/local/cuda/include/cuda_fp16.h",
        "https://example.org/home/page",
        "csrc/home/a.cu",
        "$ORIGIN/tmp/x",
        str(Path("/opt/rh", "gcc-toolset-14", "root", "usr", "include", "a.h")),
        "/tmp",
        "/home/",
        "and/or/home/x",
    ],
)
def test_texts_that_name_no_build_machine(text: str) -> None:
    assert build_paths(b"\0" + text.encode() + b"\0") == ()
