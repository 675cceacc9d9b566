"""What is read of a shared library that the compiler made."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.libraries import compile_library

from builder.util.errors import AuditError
from builder.wheel.elf import Symbol, read_elf


def test_everything_that_the_loader_reads(tmp_path: Path) -> None:
    libc = compile_library(tmp_path / "libc.so.6", "void* memcpy() { return 0; }", version="GLIBC_2.14")
    torch = compile_library(tmp_path / "libc10.so", "int torch() { return 0; }")
    code = "extern int torch(); extern void* memcpy(); int go() { memcpy(); return torch(); }"
    flags = ("-fno-builtin", "-g", "-Wl,-z,execstack", "-Wl,-rpath,/opt/x:$ORIGIN", torch, libc)
    path = compile_library(tmp_path / "libmine.so.7", code, *flags, fatbin=b"code")
    library = read_elf(path.read_bytes())
    assert library.machine in {"x64", "AArch64"}
    assert library.soname == "libmine.so.7"
    assert library.needed == ("libc10.so", "libc.so.6")
    assert (*library.rpath, *library.runpath) == ("/opt/x", "$ORIGIN")
    assert library.versions == {"libc.so.6": ["GLIBC_2.14"]}
    assert library.undefined == (Symbol("memcpy", "GLIBC_2.14"), Symbol("torch"))
    assert library.executable_stack
    assert ".debug_info" in library.debug_sections
    assert library.fatbin == b"code"


def test_what_is_no_library_is_one_clear_error(tmp_path: Path) -> None:
    whole = compile_library(tmp_path / "whole.so").read_bytes()
    for data in (b"\x7fELF", b"PK\x03\x04" * 30, b"\x7fELF\x01\x01" + bytes(90), whole[: len(whole) // 2]):
        with pytest.raises(AuditError, match=r"broken\.so: not a readable shared library"):
            read_elf(data, "broken.so")
