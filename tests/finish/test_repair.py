"""From a basic wheel to a PEP 600 wheel: what is bundled, what is left out, and what is refused."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.libraries import NAME, compile_library, pack_wheel

from builder.finish.repair import repair
from builder.target.targets import load_targets
from builder.util.errors import RepairError
from builder.wheel.elf import read_elf
from builder.wheel.wheelfile import Wheel

TARGET = load_targets()["cp312-cu130"]


def library(folder: Path, name: str, function: str, version: str = "") -> Path:
    return compile_library(folder / name, f"int {function}() {{ return 0; }}", version=version)


def wheel_needing(folder: Path, **libraries: Path) -> Path:
    """A wheel whose extension calls a function of each library, by the argument's name."""
    declared = "".join(f"extern int {name}();" for name in libraries)
    code = f"{declared} int go() {{ return {' + '.join(f'{name}()' for name in libraries)}; }}"
    extension = compile_library(folder / "_fused.so", code, *libraries.values())
    return pack_wheel(folder / "in", {"sageattention/lib/_fused.so": extension.read_bytes()})


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    """The folder of the CUDA runtime."""
    return library(tmp_path / "lib64", "libcudart.so.13", "cuda_malloc").parent


@pytest.fixture
def wheel(tmp_path: Path, cuda: Path) -> Path:
    return wheel_needing(
        tmp_path,
        cuda_malloc=cuda / "libcudart.so.13",
        memcpy_of_libc=library(tmp_path / "system", "libc.so.6", "memcpy_of_libc", "GLIBC_2.14"),
        shim=library(tmp_path / "torch", "libtorch_cpu.so", "shim"),
        launch=library(tmp_path / "driver", "libcuda.so.1", "launch"),
    )


def test_the_runtime_is_bundled_and_torch_and_the_driver_are_not(
    wheel: Path,
    cuda: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUDITWHEEL_PLAT", "manylinux_2_39_x86_64")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "torch"))
    monkeypatch.setenv("PATH", os.defpath)
    before = wheel.read_bytes()
    repaired, [bundled] = repair(wheel, TARGET, tmp_path / "out", cuda)
    assert repaired == tmp_path / "out" / NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    assert list((tmp_path / "out").iterdir()) == [repaired]
    assert wheel.read_bytes() == before
    said = capsys.readouterr().out
    assert "bundled: libcudart.so.13" in said
    assert "left to the process: libcuda.so.1 (the GPU driver)" in said
    assert "left to the process: libtorch_cpu.so (torch)" in said
    assert bundled.name == "libcudart.so.13"
    original = (cuda / "libcudart.so.13").read_bytes()
    assert bundled.properties["original-sha256"] == hashlib.sha256(original).hexdigest()
    with Wheel(repaired) as opened:
        extension = read_elf(opened.read("sageattention/lib/_fused.so"))
        copy = opened.read(bundled.path)
    assert bundled.sha256 == hashlib.sha256(copy).hexdigest()
    assert read_elf(copy).soname in extension.needed
    assert {"libtorch_cpu.so", "libcuda.so.1"} < set(extension.needed)
    assert (*extension.rpath, *extension.runpath) == ("$ORIGIN/../../sageattention.libs",)


def test_symbols_that_are_too_new_are_named(tmp_path: Path) -> None:
    """Those of the extension, and those of what is bundled."""
    libc = library(tmp_path / "system", "libc.so.6", "strtol_of_libc", "GLIBC_2.38")
    code = "extern int strtol_of_libc(); int cuda_malloc() { return strtol_of_libc(); }"
    runtime = compile_library(tmp_path / "lib64" / "libcudart.so.13", code, libc)
    wheel = wheel_needing(tmp_path, strtol_of_libc=libc, cuda_malloc=runtime)
    with pytest.raises(RepairError) as caught:
        repair(wheel, TARGET, tmp_path / "out", runtime.parent)
    assert caught.value.message == (
        "The wheel can't be tagged manylinux_2_34_x86_64:\n"
        "    _fused.so needs GLIBC_2.38 of libc.so.6 (strtol_of_libc)\n"
        "    libcudart.so.13 needs GLIBC_2.38 of libc.so.6 (strtol_of_libc)"
    )
    assert "Build in the manylinux_2_34 image" in caught.value.remedy


def test_a_library_that_nobody_provides(tmp_path: Path) -> None:
    wheel = wheel_needing(tmp_path, odd=library(tmp_path / "odd", "libodd.so.1", "odd"))
    with pytest.raises(RepairError, match=r"needs libodd\.so\.1, which neither manylinux_2_34_x86_64 nor"):
        repair(wheel, TARGET, tmp_path / "out", tmp_path)


def test_a_runtime_that_is_missing(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(RepairError, match=r"needs libcudart\.so\.13, which is not in .*elsewhere"):
        repair(wheel, TARGET, tmp_path / "out", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "tag", "e_machine"),
    [
        (NAME.replace("torch2.11.2-cp312-cp312", "universal.2-py3-none"), "manylinux_2_28_x86_64", 62),
        # auditwheel takes only tags of the machine that it runs on, unless it is told otherwise.
        (NAME.replace("x86_64", "aarch64"), "manylinux_2_34_aarch64", 183),
    ],
)
def test_wheels_for_every_python_and_for_another_machine(
    tmp_path: Path, name: str, tag: str, e_machine: int
) -> None:
    torch = library(tmp_path / "torch", "libtorch_cpu.so", "shim")
    code = "extern int shim(); int go() { return shim(); }"
    data = compile_library(tmp_path / "_fused.so", code, torch).read_bytes()
    extension = data[:18] + e_machine.to_bytes(2, "little") + data[20:]
    wheel = pack_wheel(tmp_path / "in", {"sageattention/lib/_fused.so": extension}, name=name)
    repaired, bundled = repair(wheel, replace(TARGET, platform_tag=tag), tmp_path / "out", tmp_path)
    assert repaired.name == name.replace(f"linux_{tag[15:]}", tag)
    assert bundled == []
    with Wheel(repaired) as opened:
        assert opened.wheel_metadata.get_all("Tag") == [str(each) for each in opened.label.tags]
        assert opened.wheel_metadata["Root-Is-Purelib"] == "false"


def test_what_auditwheel_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    target = replace(TARGET, platform_tag="manylinux_2_34_aarch64")
    wheel = wheel_needing(tmp_path, shim=library(tmp_path / "torch", "libtorch_cpu.so", "shim"))
    with pytest.raises(RepairError, match=r"manylinux_2_34_aarch64 wheel(.|\n)*with x86_64 architecture"):
        repair(wheel, target, tmp_path / "out", tmp_path)
