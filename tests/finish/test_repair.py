"""From a basic wheel to a PEP 600 wheel: what is bundled, what is left out, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_libraries import Elf, make_elf, pack_wheel

from builder.finish.repair import plan_repair, repair
from builder.target.targets import load_targets
from builder.util.errors import RepairError
from builder.wheel.elf import read_elf
from builder.wheel.libraries import DRIVER, TORCH, TORCH_CUDA
from builder.wheel.manylinux import load_policy
from builder.wheel.wheelfile import Wheel

TARGET = load_targets()["cp312-cu130"]
NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
POLICY = load_policy("manylinux_2_34_x86_64")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def with_versions(library: str, version: str, *symbols: str) -> bytes:
    return make_elf(Elf(needed=[library], versions={library: {version: symbols}}))


def test_the_plan_comes_from_what_the_wheel_needs() -> None:
    libraries = {
        "a/_one.so": read_elf(
            make_elf(Elf(needed=["libc10.so", "libcudart.so.13", "libc.so.6", "libmine.so"]))
        ),
        "a/_two.so": read_elf(make_elf(Elf(needed=["libcuda.so.1", "libcudart.so.13", "libodd.so.1"]))),
        "a.libs/libmine.so": read_elf(make_elf(Elf(soname="libmine.so", needed=["libcublas.so.13"]))),
    }
    plan = plan_repair(libraries, POLICY)
    assert plan.bundle == ("libcudart.so.13",)
    assert plan.leave_out == {"libc10.so": TORCH, "libcublas.so.13": TORCH_CUDA, "libcuda.so.1": DRIVER}
    assert plan.unknown == {"libodd.so.1": ("a/_two.so",)}


def test_symbols_that_lift_the_tag_are_refused_by_name(tmp_path: Path) -> None:
    extension = with_versions("libc.so.6", "GLIBC_2.38", "__isoc23_strtol")
    wheel = pack_wheel(tmp_path, NAME, {"sageattention/lib/_fused.so": extension})
    with pytest.raises(RepairError) as caught:
        repair(wheel, TARGET, tmp_path / "out", [])
    assert caught.value.message == (
        "The wheel can't be tagged manylinux_2_34_x86_64:\n"
        "    _fused.so needs GLIBC_2.38 of libc.so.6 (__isoc23_strtol), beyond GLIBC_2.34"
    )
    assert "Build in the manylinux_2_34 image" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_bundled_library_counts_too(tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path, NAME, {"sageattention/_fused.so": make_elf(Elf(needed=["libcudart.so.13"]))})
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so.13").write_bytes(with_versions("libc.so.6", "GLIBC_2.39", "x"))
    with pytest.raises(RepairError, match=r"libcudart\.so\.13 needs GLIBC_2\.39"):
        repair(wheel, TARGET, tmp_path / "out", [tmp_path / "lib64"])


def test_a_library_that_nobody_provides_is_refused(tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path, NAME, {"sageattention/_fused.so": make_elf(Elf(needed=["libodd.so.1"]))})
    with pytest.raises(RepairError, match=r"_fused\.so needs libodd\.so\.1, which neither manylinux_2_34"):
        repair(wheel, TARGET, tmp_path / "out", [])


def test_a_runtime_that_is_not_there_is_refused(tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path, NAME, {"sageattention/_fused.so": make_elf(Elf(needed=["libcudart.so.13"]))})
    with pytest.raises(RepairError, match=r"needs libcudart\.so\.13, which is not in .*lib64"):
        repair(wheel, TARGET, tmp_path / "out", [tmp_path / "lib64"])


def compile_library(path: Path, source: str, *arguments: str) -> Path:
    code = path.with_suffix(".c")
    code.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", str(code), "-o", str(path), *arguments], check=True)
    code.unlink()
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel whose extension needs made-up libraries by the names of torch's, the driver's and CUDA's."""
    lib = tmp_path / "site-packages" / "nvidia" / "cu13" / "lib"
    torch = tmp_path / "torch"
    lib.mkdir(parents=True)
    torch.mkdir()
    compile_library(lib / "libcudart.so.13", "int cudaMalloc() { return 0; }", "-Wl,-soname,libcudart.so.13")
    compile_library(torch / "libtorch_cpu.so", "int aoti() { return 0; }", "-Wl,-soname,libtorch_cpu.so")
    compile_library(torch / "libcuda.so.1", "int cuInit() { return 0; }", "-Wl,-soname,libcuda.so.1")
    extension = compile_library(
        tmp_path / "_fused.so",
        "int cudaMalloc(); int aoti(); int cuInit(); int go() { return cudaMalloc() + aoti() + cuInit(); }",
        *map(str, (lib / "libcudart.so.13", torch / "libtorch_cpu.so", torch / "libcuda.so.1")),
    )
    info = tmp_path / "site-packages" / "nvidia_cuda_runtime-13.0.96.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cuda-runtime\nVersion: 13.0.96\n")
    (info / "RECORD").write_text("nvidia/cu13/lib/libcudart.so.13,,\n")
    return pack_wheel(tmp_path / "in", NAME, {"sageattention/lib/_fused.so": extension.read_bytes()})


@needs_gcc
def test_the_runtime_is_bundled_and_torch_and_the_driver_are_not(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" / "lib64"
    home.mkdir(parents=True)
    runtime = tmp_path / "site-packages" / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    (home / "libcudart.so.13").symlink_to(runtime)
    before = wheel.read_bytes()
    result = repair(wheel, TARGET, tmp_path / "out", [home])
    assert result.wheel == tmp_path / "out" / NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    assert result.left_out == {"libcuda.so.1": "the GPU driver", "libtorch_cpu.so": "torch"}
    (bundled,) = result.bundled
    assert bundled.soname == "libcudart.so.13"
    assert (bundled.package, bundled.version) == ("nvidia-cuda-runtime", "13.0.96")
    assert wheel.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == [result.wheel.name]
    with Wheel(result.wheel) as opened:
        assert opened.elf_names() == (bundled.path, "sageattention/lib/_fused.so")
        extension = read_elf(opened.read("sageattention/lib/_fused.so"))
        copy = read_elf(opened.read(bundled.path))
    assert copy.soname in extension.needed
    assert "libcudart.so.13" not in extension.needed
    assert {"libtorch_cpu.so", "libcuda.so.1"} <= set(extension.needed)
    assert (*extension.rpath, *extension.runpath) == ("$ORIGIN/../../sageattention.libs",)


@needs_gcc
def test_the_environment_does_not_change_the_result(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = tmp_path / "site-packages" / "nvidia" / "cu13" / "lib"
    monkeypatch.setenv("AUDITWHEEL_PLAT", "manylinux_2_39_x86_64")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "torch"))
    monkeypatch.setenv("PATH", os.defpath)
    result = repair(wheel, TARGET, tmp_path / "out", [lib])
    assert result.wheel.name.endswith("-manylinux_2_34_x86_64.whl")
    assert [each.soname for each in result.bundled] == ["libcudart.so.13"]


@needs_gcc
def test_what_auditwheel_refuses_is_said_in_its_words(wheel: Path, tmp_path: Path) -> None:
    lib = tmp_path / "site-packages" / "nvidia" / "cu13" / "lib"
    other = replace(TARGET, platform_tag="manylinux_2_33_x86_64")  # known to PEP 600, not to auditwheel
    with pytest.raises(
        RepairError, match=r"auditwheel could not make a manylinux_2_33_x86_64 wheel(.|\n)*invalid"
    ):
        repair(wheel, other, tmp_path / "out", [lib])
    assert list((tmp_path / "out").iterdir()) == []
