"""Reading GPU code: sections written byte by byte, and (e2e) those of real compilers beside cuobjdump."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest
from fakes.libraries import container, entry

from builder.target.architectures import Architecture
from builder.wheel.elf import read_elf
from builder.wheel.fatbin import Code, FatbinError, cubin_architectures, ptx_architectures, read_fatbin


def fatbin(*architectures: str, compression: str = "") -> bytes:
    return container(*(entry(architecture, compression=compression) for architecture in architectures))


def names(section: bytes) -> list[str]:
    return [str(code.architecture) for code in read_fatbin(section)]


def test_nothing() -> None:
    assert read_fatbin(b"") == ()
    assert read_fatbin(bytes(64)) == ()


def test_every_field_of_an_entry() -> None:
    assert read_fatbin(container(entry("90a", compression="zstd", debug=True, header=112))) == (
        Code("cubin", Architecture(9, 0, "a"), True),
    )


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_the_suffix_is_read_whatever_the_compression(compression: str) -> None:
    section = fatbin("75", "80", "90", "90a", "100f", "120", "121a", compression=compression)
    assert names(section) == ["7.5", "8.0", "9.0", "9.0a", "10.0f", "12.0", "12.1a"]


def test_padding_between_containers_is_skipped() -> None:
    section = fatbin("80") + bytes(24) + container(entry("90", "ptx")) + fatbin("80", "89") + bytes(8)
    assert [(code.kind, str(code.architecture)) for code in read_fatbin(section)] == [
        ("cubin", "8.0"),
        ("ptx", "9.0"),
        ("cubin", "8.0"),
        ("cubin", "8.9"),
    ]
    assert [str(each) for each in cubin_architectures(read_fatbin(section))] == ["8.0", "8.9"]
    assert [str(each) for each in ptx_architectures(read_fatbin(section))] == ["9.0"]


def test_unknown_kinds_are_named_and_are_not_cubins() -> None:
    odd = bytearray(entry("80"))
    struct.pack_into("<H", odd, 0, 64)
    codes = read_fatbin(container(bytes(odd), entry("80", "ltoir")))
    assert [code.kind for code in codes] == ["kind 64", "ltoir"]
    assert cubin_architectures(codes) == ()


GOOD = fatbin("80", "90a")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"\x7fELF" + bytes(60), "is not the magic"),
        (bytes(3) + GOOD, "there is no fatbin container"),
        (GOOD + b"\x50\xed", "ends within a container's header"),
        (GOOD[:-8], "longer than the section"),
        (GOOD[:4] + b"\x09" + GOOD[5:], "unknown container"),
        (container(entry("80")[:40]), "ends within an entry's header"),
        (container(entry("80")[:-8]), "longer than its container"),
        (container(entry("0")), "0 is not an architecture"),
    ],
)
def test_garbage_is_one_clear_error(section: bytes, message: str) -> None:
    with pytest.raises(FatbinError, match=message):
        read_fatbin(section)


# What follows needs a CUDA compiler and cuobjdump, named by these variables, or where packages put them.
KERNEL = """
__global__ void twice(float *x) { x[threadIdx.x] *= 2; }
extern "C" void go(float *x) { twice<<<1, 32>>>(x); }
"""


def _compilers() -> list[Path]:
    packages = Path(sysconfig.get_path("purelib"))
    named = [Path(text) for text in os.environ.get("TEST_NVCC", "").split(os.pathsep) if text]
    found = [*named, *packages.glob("nvidia/cu*/bin/nvcc")]
    on_path = shutil.which("nvcc")
    return found or ([Path(on_path)] if on_path else [])


def _cuobjdumps() -> list[Path]:
    packages = Path(sysconfig.get_path("purelib"))
    named = [Path(text) for text in os.environ.get("TEST_CUOBJDUMP", "").split(os.pathsep) if text]
    bundled = [packages / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"]
    return named or [path for path in bundled if path.is_file()]


@pytest.mark.e2e
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--compress-mode=none"],
        ["--compress-mode=size"],
        ["--compress-mode=speed"],
        ["-Xfatbin=-compress-all"],
    ],
    ids=lambda flags: "".join(flags) or "default",
)
def test_real_compilers_and_cuobjdump(tmp_path: Path, flags: list[str]) -> None:
    compilers, dumpers = _compilers(), _cuobjdumps()
    if not compilers or not dumpers:
        pytest.skip("needs nvcc and cuobjdump (TEST_NVCC, TEST_CUOBJDUMP)")
    for name in ("one.cu", "two.cu"):
        (tmp_path / name).write_text(KERNEL.replace("go", name[:3]).replace("twice", f"twice_{name[:3]}"))
    for compiler in compilers:
        known = subprocess.run(
            [compiler, "--list-gpu-code"], capture_output=True, text=True, check=True
        ).stdout
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
        release = re.search(r"release (\d+)\.(\d+)", version)
        assert release is not None
        if "--compress-mode" in "".join(flags) and (int(release[1]), int(release[2])) < (12, 8):
            continue
        wanted = ["80", "89", "90a"] + (["120"] if "sm_120" in known else [])
        objects = []
        for name in ("one", "two"):
            command = [str(compiler), "-c", "-Xcompiler=-fPIC", *flags]
            command += [f"-gencode=arch=compute_{number},code=sm_{number}" for number in wanted]
            command += ["-gencode=arch=compute_90,code=compute_90"]
            subprocess.run(
                [*command, str(tmp_path / f"{name}.cu"), "-o", str(tmp_path / f"{name}.o")], check=True
            )
            objects.append(str(tmp_path / f"{name}.o"))
        library = tmp_path / "made.so"
        # Linked as setuptools links an extension: by g++, without nvcc's own device link.
        subprocess.run(["g++", "-shared", "-Wl,-z,lazy", *objects, "-o", str(library)], check=True)
        codes = read_fatbin(read_elf(library.read_bytes()).fatbin)
        assert [code.architecture.number for code in codes if code.kind == "cubin"] == wanted * 2
        assert [code.architecture.number for code in codes if code.kind == "ptx"] == ["90"] * 2
        for dumper in dumpers:
            listed = subprocess.run(
                [dumper, "--list-elf", "--list-ptx", library], capture_output=True, text=True, check=False
            )
            if listed.returncode != 0:
                continue  # an older cuobjdump than the compiler
            cubins = re.findall(r"\.sm_(\d+)a?\.cubin", listed.stdout)
            ptx = re.findall(r"\.sm_(\d+)a?\.ptx", listed.stdout)
            assert cubins == [number.rstrip("a") for number in wanted] * 2
            assert ptx == ["90"] * 2
