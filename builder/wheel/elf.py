"""What the dynamic loader will read in a shared library, and what should not be in one.

Only 64-bit little-endian files are read, since wheels here are for x86_64.
Sources: the System V ABI (gABI), and the Linux Standard Base for symbol versions and `PT_GNU_STACK`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from builder.util.errors import AuditError

MAGIC = b"\x7fELF"
FATBIN_SECTION = ".nv_fatbin"

_EXECUTABLE = 0x1  # PF_X
_VERSION_BYTES = 16  # sizeof(Elf64_Verneed), sizeof(Elf64_Vernaux)
_FIRST_VERSION_INDEX = 2  # 0 is a local symbol, 1 a global one without a version


class ElfError(AuditError):
    """A file that should be a shared library and can't be read as one."""


@dataclass(frozen=True, order=True)
class Symbol:
    """A dynamic symbol that another library must define.

    Attributes:
        name: As the linker sees it, mangled.
        version: Such as `GLIBC_2.34`; empty without one.
        library: The SONAME that the version belongs to; empty without one.
        weak: Whether the loader leaves it null where nobody defines it.
    """

    name: str
    version: str = ""
    library: str = ""
    weak: bool = False


@dataclass(frozen=True)
class SharedLibrary:
    """The parts of a shared library that decide whether and with what it loads.

    Attributes:
        machine: `x64`, as pyelftools names it.
        soname: Its DT_SONAME; empty without one.
        needed: DT_NEEDED, in order.
        rpath: Entries of DT_RPATH.
        runpath: Entries of DT_RUNPATH.
        versions: SONAME of a library -> the symbol versions that are required of it.
        undefined: Dynamic symbols that others must define, sorted.
        defined: Names of the dynamic symbols that it defines.
        executable_stack: Whether loading it makes the process's stack executable.
        debug_sections: Names of its DWARF sections.
        compilers: What `.comment` says made it.
        fatbin: The bytes of its `.nv_fatbin` section; empty without one.
    """

    machine: str
    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    undefined: tuple[Symbol, ...]
    defined: frozenset[str]
    executable_stack: bool
    debug_sections: tuple[str, ...]
    compilers: tuple[str, ...]
    fatbin: bytes

    def symbols_of_version(self, version: str) -> tuple[str, ...]:
        """Names of the undefined symbols that carry a version."""
        return tuple(symbol.name for symbol in self.undefined if symbol.version == version)


def is_elf(data: bytes) -> bool:
    """Whether the bytes start like an ELF file."""
    return data.startswith(MAGIC)


def read_elf(data: bytes, name: str = "file") -> SharedLibrary:
    """Read a shared library.

    Args:
        data: The whole file.
        name: What to call it in an error.

    Raises:
        ElfError: The bytes are no 64-bit little-endian ELF file, or a part of them contradicts another.
    """
    try:
        return _read(data, name)
    except ElfError as error:
        raise ElfError(
            error.message if error.message.startswith(name) else f"{name}: {error.message}"
        ) from error
    except (ELFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise ElfError(
            f"{name}: not a readable shared library: {str(error) or type(error).__name__}."
        ) from error


def _read(data: bytes, name: str) -> SharedLibrary:
    elf = ELFFile(io.BytesIO(data))
    if elf.elfclass != 64 or not elf.little_endian:
        raise ElfError(f"{name}: not a 64-bit little-endian ELF file.")
    sections = {section.name: section for section in elf.iter_sections()}
    dynamic: Any = sections.get(".dynamic")
    tags = list(dynamic.iter_tags()) if dynamic is not None else []

    def values(tag: str, attribute: str) -> list[str]:
        return [str(getattr(entry, attribute)) for entry in tags if entry.entry.d_tag == tag]

    def paths(tag: str, attribute: str) -> tuple[str, ...]:
        return tuple(part for value in values(tag, attribute) for part in value.split(":"))

    required = _required_versions(sections.get(".gnu.version_r"))
    undefined, defined = _symbols(sections.get(".dynsym"), sections.get(".gnu.version"), required)
    versions: dict[str, set[str]] = {}
    for library, version in required.values():
        versions.setdefault(library, set()).add(version)
    fatbin, comment = sections.get(FATBIN_SECTION), sections.get(".comment")
    return SharedLibrary(
        machine=str(elf.get_machine_arch()),
        soname="".join(values("DT_SONAME", "soname")[:1]),
        needed=tuple(values("DT_NEEDED", "needed")),
        rpath=paths("DT_RPATH", "rpath"),
        runpath=paths("DT_RUNPATH", "runpath"),
        versions={library: tuple(sorted(names)) for library, names in sorted(versions.items())},
        undefined=tuple(sorted(undefined)),
        defined=frozenset(defined),
        executable_stack=_executable_stack(elf),
        debug_sections=tuple(sorted(part for part in sections if part.startswith((".debug_", ".zdebug_")))),
        compilers=_strings(comment.data()) if comment is not None else (),
        fatbin=bytes(fatbin.data()) if fatbin is not None else b"",
    )


def _required_versions(section: Any) -> dict[int, tuple[str, str]]:
    """Version index -> (SONAME, version)."""
    found: dict[int, tuple[str, str]] = {}
    if section is not None:
        _refuse_more_than_fit(section["sh_info"], section)
        for library, versions in section.iter_versions():
            _refuse_more_than_fit(library["vn_cnt"], section)
            for version in versions:
                found[int(version["vna_other"])] = (str(library.name), str(version.name))
    return found


def _refuse_more_than_fit(entries: int, section: Any) -> None:
    """A count that is damaged would be walked for hours."""
    if entries * _VERSION_BYTES > section["sh_size"]:
        raise ElfError(f"{section.name} counts {entries} entries, more than it can hold.")


def _symbols(
    table: Any, version_table: Any, required: Mapping[int, tuple[str, str]]
) -> tuple[list[Symbol], list[str]]:
    undefined: list[Symbol] = []
    defined: list[str] = []
    for index, symbol in _numbered(table):
        name = str(symbol.name)
        if not name:
            continue
        if symbol["st_shndx"] != "SHN_UNDEF":
            defined.append(name)
            continue
        library, version = "", ""
        if version_table is not None:
            number = version_table.get_symbol(index)["ndx"]
            if isinstance(number, int) and (number & 0x7FFF) >= _FIRST_VERSION_INDEX:
                library, version = required.get(number & 0x7FFF, ("", ""))
        weak = symbol["st_info"]["bind"] == "STB_WEAK"
        undefined.append(Symbol(name, version, library, weak))
    return undefined, defined


def _numbered(table: Any) -> Iterator[tuple[int, Any]]:
    yield from enumerate(table.iter_symbols() if table is not None else ())


def _executable_stack(elf: Any) -> bool:
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_GNU_STACK":
            return bool(segment["p_flags"] & _EXECUTABLE)
    # Without the header the x86 loader takes the old default, an executable stack.
    return True


def _strings(data: bytes) -> tuple[str, ...]:
    texts = (part.decode("utf-8", "replace") for part in data.split(b"\0") if part)
    return tuple(dict.fromkeys(texts))
