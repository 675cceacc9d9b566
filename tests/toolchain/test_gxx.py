"""Which g++ is chosen, and the error if none fits; the compilers are scripts that print a version."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from fakes.tools import gxx

from builder.target.targets import MACHINES
from builder.toolchain.gxx import find_gxx, how_to_install, newest_accepted
from builder.util.errors import HostCompilerError


def test_newest_gcc_of_each_cuda() -> None:
    versions = ("12.0.140", "12.3.107", "12.4.131", "12.8.93", "12.9.86", "13.0.88", "14.0.0")
    assert [newest_accepted(version) for version in versions] == [12, 12, 13, 14, 14, 15, 15]


def test_gxx_on_path_is_taken_where_it_fits_and_else_a_fitting_one_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = gxx(tmp_path / "g++", "15.1.0")
    gxx(tmp_path / "g++-13", "13.3.0")
    fitting = gxx(tmp_path / "g++-14", "14.2.0")
    assert find_gxx("13.0.88", {"PATH": str(tmp_path)}).path == first
    assert capsys.readouterr().out == ""
    assert find_gxx("12.8.93", {"PATH": str(tmp_path)}).path == fitting
    assert f"{fitting} (14.2.0), not {first} (15.1.0)" in capsys.readouterr().out


def test_one_too_new_or_too_old_or_none_is_refused(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path)}
    with pytest.raises(HostCompilerError, match=r"Install it: `apt install g\+\+`"):
        find_gxx("13.0.88", path)
    gxx(tmp_path / "g++", "8.5.0")
    with pytest.raises(HostCompilerError, match="older than CUDA 13"):
        find_gxx("13.0.88", path)
    gxx(tmp_path / "g++", "15.1.0")
    with pytest.raises(HostCompilerError) as caught:
        find_gxx("12.8.93", path)
    assert "15.1.0, newer than CUDA 12.8 accepts (g++ 9 to 14)" in caught.value.message
    assert "apt install g++-14" in caught.value.remedy


def test_cxx_is_taken_before_path(tmp_path: Path) -> None:
    gxx(tmp_path / "bin" / "g++", "13.2.0")
    chosen = gxx(tmp_path / "other" / "x86_64-linux-gnu-g++", "11.4.0")
    found = find_gxx("13.0.88", {"PATH": str(tmp_path / "bin"), "CXX": str(chosen)})
    assert found.path == chosen


def test_another_machine_takes_its_cross_compiler(tmp_path: Path) -> None:
    machine = next(one for one in MACHINES if not one.is_here)
    name = f"{machine.name}-linux-gnu-g++"
    gxx(tmp_path / "g++", "13.2.0")
    path = {"PATH": str(tmp_path)}
    with pytest.raises(HostCompilerError, match=re.escape(f"No {name} was found")):
        find_gxx("13.0.88", path, machine)
    gxx(tmp_path / name, "16.1.0")
    with pytest.raises(HostCompilerError, match=r"newer than CUDA 13\.0 accepts"):
        find_gxx("13.0.88", path, machine)
    older = gxx(tmp_path / f"{name}-14", "14.2.0")
    assert find_gxx("13.0.88", path, machine).path == older


@pytest.mark.parametrize(
    ("here", "major", "apt", "dnf"),
    [
        ("aarch64", None, "g++", "gcc-c++"),
        ("aarch64", 14, "g++-14", "gcc-toolset-14-gcc-c++"),
        ("x86_64", 14, "g++-14-aarch64-linux-gnu", "gcc-c++-aarch64-linux-gnu"),
    ],
)
def test_how_to_install_one_for_aarch64(
    monkeypatch: pytest.MonkeyPatch, here: str, major: int | None, apt: str, dnf: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: here)
    commands = f"`apt install {apt}` (Debian, Ubuntu) or `dnf install {dnf}` (Fedora, RHEL)"
    assert how_to_install(MACHINES[1], major) == commands


@pytest.mark.parametrize(
    ("version", "about", "machine", "message"),
    [
        ("16.1.0", "Made up", "", "newer than CUDA 13.0 accepts"),
        ("12.0.0", "clang version", "", r"not a g\+\+ that works"),
        ("garbage", "Made up", "", r"not a g\+\+ that works"),
        ("13.2.0", "Made up", "riscv64-linux-gnu", "compiles for riscv64-linux-gnu, and the wheel is for"),
    ],
)
def test_cxx_that_does_not_fit_is_an_error_and_not_passed_over(
    tmp_path: Path, version: str, about: str, machine: str, message: str
) -> None:
    gxx(tmp_path / "g++", "13.2.0")
    chosen = gxx(tmp_path / "chosen++", version, about, machine)
    with pytest.raises(HostCompilerError, match=message):
        find_gxx("13.0.88", {"PATH": str(tmp_path), "CXX": str(chosen)})
    with pytest.raises(HostCompilerError, match="is missing or not a g"):
        find_gxx("13.0.88", {"PATH": str(tmp_path), "CXX": "g++ -m64"})


def test_a_digest_tells_compilers_apart_but_not_their_places(tmp_path: Path) -> None:
    versions = {"a": "14.2.0", "b": "14.2.0", "c": "14.2.1"}
    paths = [gxx(tmp_path / name / "g++", version).parent for name, version in versions.items()]
    first, same, other = (find_gxx("13.0", {"PATH": str(path)}).digest() for path in paths)
    assert first == same != other
