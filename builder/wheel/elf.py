"""Reads what the dynamic loader reads of a shared library, and what should not be in one.

Only 64-bit little-endian files are read, as x86_64 and aarch64 have them.
Sources: the System V ABI (gABI), and the Linux Standard Base for symbol versions and `PT_GNU_STACK`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from builder.util.errors import AuditError

_EXECUTABLE = 0x1  # PF_X


class Symbol(NamedTuple):
    """A dynamic symbol that another library must define, by its mangled name, and a version or ''."""

    name: str
    version: str = ""


@dataclass(frozen=True)
class SharedLibrary:
    """The parts of a shared library that decide whether it loads, and with what.

    Attributes:
        machine: `x64` or `AArch64`, as pyelftools names it.
        versions: SONAME of a library -> the symbol versions that are required of it, sorted.
        undefined: Dynamic symbols that others must define, sorted.
        executable_stack: Whether loading it makes the process's stack executable.
        fatbin: The bytes of its `.nv_fatbin` section; empty without one.
    """

    machine: str
    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    versions: Mapping[str, list[str]]
    undefined: tuple[Symbol, ...]
    executable_stack: bool
    debug_sections: tuple[str, ...]
    fatbin: bytes


def is_elf(data: bytes) -> bool:
    """Return whether the bytes start like an ELF file."""
    return data.startswith(b"\x7fELF")


def read_elf(data: bytes, name: str = "file") -> SharedLibrary:
    """Read a shared library; AuditError, with the name, if it can't be read as one."""
    try:
        elf = ELFFile(io.BytesIO(data))
        if elf.elfclass != 64 or not elf.little_endian:
            raise ELFError("not a 64-bit little-endian ELF file")
        return _read(elf)
    except (ELFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise AuditError(f"{name}: not a readable shared library: {error!r}.") from error


def differing_section(data: bytes, other: bytes) -> str:
    """Return the first section in which two ELF files differ; empty where none is found."""
    try:
        sections, others = (
            {section.name: section.data() for section in ELFFile(io.BytesIO(each)).iter_sections()}
            for each in (data, other)
        )
    except ELFError:
        return ""
    return next((name for name in {**sections, **others} if sections.get(name) != others.get(name)), "")


def _read(elf: ELFFile) -> SharedLibrary:
    sections: dict[str, Any] = {section.name: section for section in elf.iter_sections()}
    dynamic = list(sections[".dynamic"].iter_tags()) if ".dynamic" in sections else []

    def values(tag: str, attribute: str) -> tuple[str, ...]:
        return tuple(str(getattr(entry, attribute)) for entry in dynamic if entry.entry.d_tag == tag)

    def paths(tag: str, attribute: str) -> tuple[str, ...]:
        return tuple(part for value in values(tag, attribute) for part in value.split(":"))

    required: dict[int, str] = {}  # version's number in this file -> version
    versions: dict[str, list[str]] = {}
    if ".gnu.version_r" in sections:
        for library, needs in sections[".gnu.version_r"].iter_versions():
            names = {need["vna_other"]: str(need.name) for need in needs}
            required |= names
            versions[str(library.name)] = sorted(names.values())
    undefined = []
    for index, symbol in enumerate(sections[".dynsym"].iter_symbols() if ".dynsym" in sections else ()):
        if symbol.name and symbol["st_shndx"] == "SHN_UNDEF":
            number = sections[".gnu.version"].get_symbol(index)["ndx"] if ".gnu.version" in sections else 0
            # A name instead of a number is a local symbol, or a global one without a version.
            undefined.append(Symbol(str(symbol.name), required.get(number, "")))
    return SharedLibrary(
        machine=str(elf.get_machine_arch()),
        soname="".join(values("DT_SONAME", "soname")),
        needed=values("DT_NEEDED", "needed"),
        rpath=paths("DT_RPATH", "rpath"),
        runpath=paths("DT_RUNPATH", "runpath"),
        versions=versions,
        undefined=tuple(sorted(undefined)),
        # Without the header the x86 loader uses the old default, an executable stack.
        executable_stack=all(
            segment["p_flags"] & _EXECUTABLE
            for segment in elf.iter_segments()
            if segment["p_type"] == "PT_GNU_STACK"
        ),
        debug_sections=tuple(sorted(part for part in sections if part.startswith((".debug_", ".zdebug_")))),
        fatbin=bytes(sections[".nv_fatbin"].data()) if ".nv_fatbin" in sections else b"",
    )
