"""Libraries that don't fit the tag, that nobody provides, or that leave the environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_audits import EXTENSIONS, NAME, NATIVE, STABLE, found, only_error, ours, raw_wheel
from made_up_libraries import Elf, make_elf

from builder.check.audit import audit_wheel
from builder.check.checks.shared_libraries import resolve_origin


def test_symbols_beyond_the_tag(tmp_path: Path) -> None:
    new = replace(EXTENSIONS["_fused"], versions={"libc.so.6": {"GLIBC_2.38": ["__isoc23_strtol"]}})
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    errors = found(audit_wheel(raw_wheel(tmp_path, name, {**EXTENSIONS, "_fused": new})))
    assert any(
        "tag: _fused.so needs GLIBC_2.38 of libc.so.6 (__isoc23_strtol), beyond GLIBC_2.34; Build in the"
        in text
        for text in errors
    )


def test_a_tag_of_another_python_or_machine(tmp_path: Path) -> None:
    files = {
        "sageattention/_x.cpython-311-x86_64-linux-gnu.so": make_elf(Elf()),
        "sageattention/_y.so": make_elf(Elf(machine=183)),
    }
    errors = found(audit_wheel(raw_wheel(tmp_path, files=files)))
    assert "tag: _x.cpython-311-x86_64-linux-gnu.so is for CPython 311, and the tag says cp312" in errors
    assert "tag: _y.so is for AArch64, and the tag says x86_64" in errors


def test_a_library_of_this_machine_in_a_wheel_for_another(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, NAME.replace("linux_x86_64", "manylinux_2_34_aarch64"))
    assert "tag: _fused.so is for x64, and the tag says aarch64" in found(audit_wheel(wheel))
    arm = {stem: replace(elf, machine=183) for stem, elf in EXTENSIONS.items()}
    other = raw_wheel(tmp_path / "arm", NAME.replace("linux_x86_64", "linux_aarch64"), arm)
    report = audit_wheel(other)
    assert report.passed
    assert "tag: its symbols fit manylinux_2_17_aarch64" in found(report, "note")


def test_a_tag_of_another_target(tmp_path: Path) -> None:
    errors = found(audit_wheel(ours(tmp_path), expect=STABLE))
    assert any(
        text.startswith("tag: the target abi3-cu130 makes wheels tagged cp310-abi3") for text in errors
    )


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        ("libodd.so.1", "needs libodd.so.1, which neither torch nor the driver nor the system provides"),
        (
            "libpython3.12.so.1.0",
            "needs libpython3.12.so.1.0: the interpreter itself defines its symbols (PEP 513)",
        ),
        ("libcuda.so.1", "needs libcuda.so.1: it can't be imported where there is no driver"),
        ("libcudart.so.12", "needs libcudart.so.12, and the wheel is for CUDA 13.0"),
    ],
)
def test_libraries_that_nobody_should_need(tmp_path: Path, needed: str, message: str) -> None:
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], needed=[needed]))
    assert only_error(audit_wheel(wheel, expect=NATIVE)) == f"libraries: _fused.so {message}"


def test_a_manylinux_wheel_without_the_runtime(tmp_path: Path) -> None:
    wheel = raw_wheel(tmp_path, NAME.replace("linux_x86_64", "manylinux_2_34_x86_64"))
    expected = (
        "libraries: _fused.so needs libcudart.so.13, which the tag manylinux_2_34_x86_64 doesn't promise"
    )
    assert expected in found(audit_wheel(wheel), "warning")


def test_an_executable_stack(tmp_path: Path) -> None:
    for stack in ("executable", "unsaid"):
        wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], stack=stack))
        assert only_error(audit_wheel(wheel)).startswith(
            "stack: _fused.so makes the process's stack executable"
        )


@pytest.mark.parametrize(
    "rpath", ["/usr/local/cuda/lib64", "", "lib", "$ORIGIN/../../../../../up", "$ORIGINAL/x"]
)
def test_search_paths_that_leave_the_environment(tmp_path: Path, rpath: str) -> None:
    wheel = ours(tmp_path, _fused=replace(EXTENSIONS["_fused"], runpath=f"$ORIGIN:{rpath}"))
    assert only_error(audit_wheel(wheel)) == (
        f"rpath: sageattention/lib/_fused.so searches {rpath or 'the current folder'} for libraries"
    )


def test_search_paths_to_other_packages_break_a_house_rule(tmp_path: Path) -> None:
    elf = replace(EXTENSIONS["_fused"], rpath="$ORIGIN/../../torch/lib")
    assert only_error(audit_wheel(ours(tmp_path, _fused=elf))).startswith("rpath:")
    assert audit_wheel(raw_wheel(tmp_path, extensions={**EXTENSIONS, "_fused": elf})).passed


def test_where_search_paths_lead() -> None:
    library = "sageattention/lib/_fused.so"
    assert resolve_origin("$ORIGIN/../../sageattention.libs", library) == "sageattention.libs"
    assert resolve_origin("${ORIGIN}", library) == "sageattention/lib"
    assert resolve_origin("$ORIGIN/../../..", library) is None
    assert resolve_origin("/x", library) is None
