"""Which g++ is chosen, and the error if none fits; the compilers are scripts that print a version."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.tools import GXX, gxx, program

from builder.target.machines import MACHINES
from builder.toolchain.gxx import find_gxx, inspect, newest_accepted
from builder.util.errors import HostCompilerError


def test_newest_gcc_of_each_cuda() -> None:
    versions = ("12.0.140", "12.3.107", "12.4.131", "12.8.93", "12.9.86", "13.0.88", "14.0.0")
    assert [newest_accepted(version) for version in versions] == [12, 12, 13, 14, 14, 15, 15]


def test_a_fitting_one_beside_one_too_new_is_taken_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gxx(tmp_path / "g++", "15.1.0")
    gxx(tmp_path / "g++-13", "13.3.0")
    fitting = gxx(tmp_path / "g++-14", "14.2.0")
    assert find_gxx("12.8.93", {"PATH": str(tmp_path)}).path == fitting
    said = capsys.readouterr().out
    assert str(fitting) in said
    assert "15.1.0" in said


def test_one_too_new_names_the_packages(tmp_path: Path) -> None:
    gxx(tmp_path / "g++", "15.1.0")
    with pytest.raises(HostCompilerError) as caught:
        find_gxx("12.8.93", {"PATH": str(tmp_path)})
    assert "15.1.0, newer than CUDA 12.8 accepts (g++ 9 to 14)" in caught.value.message
    assert "apt install g++-14" in caught.value.remedy
    assert "dnf install gcc-toolset-14-gcc-c++" in caught.value.remedy


def test_one_too_old_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostCompilerError) as caught:
        find_gxx("13.0.88", {"PATH": str(tmp_path)})
    assert "apt install g++`" in caught.value.remedy
    assert "dnf install gcc-c++`" in caught.value.remedy
    gxx(tmp_path / "g++", "8.5.0")
    with pytest.raises(HostCompilerError, match="older than CUDA 13"):
        find_gxx("13.0.88", {"PATH": str(tmp_path)})


def test_cxx_is_taken_before_path(tmp_path: Path) -> None:
    gxx(tmp_path / "bin" / "g++", "13.2.0")
    chosen = gxx(tmp_path / "other" / "x86_64-linux-gnu-g++", "11.4.0")
    found = find_gxx("13.0.88", {"PATH": str(tmp_path / "bin"), "CXX": str(chosen)})
    assert found.path == chosen


def test_another_machine_takes_its_cross_compiler(tmp_path: Path) -> None:
    machine = next(one for one in MACHINES if not one.is_here)
    gxx(tmp_path / "g++", "13.2.0")
    path = {"PATH": str(tmp_path)}
    with pytest.raises(HostCompilerError) as caught:
        find_gxx("13.0.88", path, machine)
    assert f"No {machine.gxx} was found" in caught.value.message
    assert f"`dnf install gcc-c++-{machine.name}-linux-gnu`" in caught.value.remedy
    gxx(tmp_path / machine.gxx, "16.1.0")
    with pytest.raises(HostCompilerError) as caught:
        find_gxx("13.0.88", path, machine)
    assert f"`apt install {machine.apt_gxx(15)}`" in caught.value.remedy
    older = gxx(tmp_path / f"{machine.gxx}-14", "14.2.0")
    assert find_gxx("13.0.88", path, machine).path == older


def test_cxx_that_compiles_for_another_machine_is_refused(tmp_path: Path) -> None:
    script = GXX.format(version="13.2.0", about="Made up")
    says = "case $1 in -dumpmachine) echo riscv64-linux-gnu; exit ;; esac\n"
    chosen = program(tmp_path / "g++", script.replace("case", f"{says}case", 1))
    with pytest.raises(HostCompilerError, match="compiles for riscv64-linux-gnu, and the wheel is for"):
        find_gxx("13.0.88", {"PATH": str(tmp_path), "CXX": str(chosen)})


@pytest.mark.parametrize(
    ("version", "about", "message"),
    [
        ("16.1.0", "Made up", "newer than CUDA 13.0 accepts"),
        ("12.0.0", "clang version", "not a g\\+\\+ that works"),
        ("garbage", "Made up", "not a g\\+\\+ that works"),
    ],
)
def test_cxx_that_does_not_fit_is_an_error_and_not_passed_over(
    tmp_path: Path, version: str, about: str, message: str
) -> None:
    gxx(tmp_path / "g++", "13.2.0")
    chosen = gxx(tmp_path / "chosen++", version, about)
    with pytest.raises(HostCompilerError, match=message):
        find_gxx("13.0.88", {"PATH": str(tmp_path), "CXX": str(chosen)})


def test_cxx_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    gxx(tmp_path / "g++", "13.2.0")
    with pytest.raises(HostCompilerError, match="there is no such program"):
        find_gxx("13.0.88", {"PATH": str(tmp_path), "CXX": "g++ -m64"})


def test_a_digest_tells_compilers_apart_but_not_their_places(tmp_path: Path) -> None:
    paths = [gxx(tmp_path / "a" / "g++", "14.2.0"), gxx(tmp_path / "b" / "g++", "14.2.0")]
    other = gxx(tmp_path / "c" / "g++", "14.2.1")
    digests = [compiler.digest() for path in (*paths, other) if (compiler := inspect(path))]
    assert digests[0] == digests[1]
    assert digests[2] not in digests[:2]
