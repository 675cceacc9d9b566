"""Reading shared libraries: made-up ones, and one that the real compiler made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_libraries import Elf, fatbin, make_elf

from builder.wheel.elf import ElfError, Symbol, is_elf, read_elf

VERSIONS = {
    "libc.so.6": {"GLIBC_2.2.5": ["memcpy"], "GLIBC_2.38": ["__isoc23_strtol", "__isoc23_sscanf"]},
    "libstdc++.so.6": {"GLIBCXX_3.4.30": ["_ZSt17current_exceptionv"]},
}


def test_everything_that_the_loader_reads() -> None:
    library = read_elf(
        make_elf(
            Elf(
                needed=["libc10.so", "libc.so.6"],
                soname="libmine.so.1",
                rpath="/usr/local/lib:$ORIGIN/../a",
                runpath="$ORIGIN",
                versions=VERSIONS,
                undefined=["_ZN3c105ErrorE"],
                weak=["__gmon_start__"],
                defined=["go"],
                fatbin=fatbin("80"),
            )
        )
    )
    assert library.machine == "x64"
    assert library.soname == "libmine.so.1"
    assert library.needed == ("libc10.so", "libc.so.6")
    assert library.rpath == ("/usr/local/lib", "$ORIGIN/../a")
    assert library.runpath == ("$ORIGIN",)
    assert library.versions == {
        "libc.so.6": ("GLIBC_2.2.5", "GLIBC_2.38"),
        "libstdc++.so.6": ("GLIBCXX_3.4.30",),
    }
    assert library.undefined == (
        Symbol("_ZN3c105ErrorE"),
        Symbol("_ZSt17current_exceptionv", "GLIBCXX_3.4.30"),
        Symbol("__gmon_start__"),
        Symbol("__isoc23_sscanf", "GLIBC_2.38"),
        Symbol("__isoc23_strtol", "GLIBC_2.38"),
        Symbol("memcpy", "GLIBC_2.2.5"),
    )
    assert library.fatbin == fatbin("80")
    assert not library.executable_stack
    assert library.debug_sections == ()


def test_a_bare_library_has_nothing() -> None:
    library = read_elf(make_elf(Elf()))
    assert (library.needed, library.undefined, library.runpath) == ((), (), ())
    assert library.versions == {}
    assert library.fatbin == b""


@pytest.mark.parametrize(("stack", "executable"), [("plain", False), ("executable", True), ("unsaid", True)])
def test_executable_stack(stack: str, executable: bool) -> None:
    assert read_elf(make_elf(Elf(stack=stack))).executable_stack is executable


def test_debug_sections() -> None:
    assert read_elf(make_elf(Elf(debug=True))).debug_sections == (".debug_info",)


GOOD = make_elf(Elf(needed=["libc10.so"], versions=VERSIONS))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"PK\x03\x04" * 30,
        GOOD[:100],
        GOOD[:4] + b"\x01" + GOOD[5:],
        GOOD[:40] + b"\xff" * 24,
    ],
    ids=["empty", "magic only", "zip", "cut short", "32 bit", "no sections"],
)
def test_garbage_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ElfError, match=r"broken\.so: not"):
        read_elf(data, "broken.so")


def test_damage_anywhere_never_escapes_as_another_error() -> None:
    for offset in range(0, len(GOOD), 3):
        damaged = bytearray(GOOD)
        damaged[offset] ^= 0xFF
        try:
            read_elf(bytes(damaged))
        except ElfError:
            continue


def test_is_elf() -> None:
    assert is_elf(GOOD)
    assert not is_elf(b"#!/bin/sh")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_that_gcc_made(tmp_path: Path) -> None:
    source = tmp_path / "mine.c"
    source.write_text("#include <math.h>\ndouble go(double x) { return sin(x); }\n")
    made = tmp_path / "libmine.so"
    subprocess.run(
        [
            *("gcc", "-g", "-shared", "-fPIC", str(source), "-o", str(made), "-lm"),
            *("-Wl,-z,execstack", "-Wl,-soname,libmine.so.7", "-Wl,-rpath,/opt/x"),
        ],
        check=True,
    )
    library = read_elf(made.read_bytes(), made.name)
    assert library.soname == "libmine.so.7"
    assert library.needed[0] == "libm.so.6"
    assert "/opt/x" in (*library.rpath, *library.runpath)
    assert Symbol("sin", library.versions["libm.so.6"][0]) in library.undefined
    assert library.versions["libm.so.6"][0].startswith("GLIBC_2.")
    assert "go" not in {symbol.name for symbol in library.undefined}
    assert library.executable_stack
    assert ".debug_info" in library.debug_sections
