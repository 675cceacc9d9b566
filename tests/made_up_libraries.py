"""Small ELF files, fatbin sections and wheels for tests, written byte by byte: no compiler is needed."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_FLAGS = {"": 0x11, "a": 0x100011, "f": 0x200011}
_COMPRESSION = {"": 0, "lz4": 0x2000, "zstd": 0x8000}
_MAGIC = {"": b"\x7fELF", "lz4": b"\xf0\x7fELF", "zstd": b"\x28\xb5\x2f\xfd"}
_KINDS = {"ptx": 1, "cubin": 2, "ltoir": 8}
_NAMES = {
    "PROGBITS": 1,
    "SYMTAB": 2,
    "STRTAB": 3,
    "DYNAMIC": 6,
    "DYNSYM": 11,
    "VERNEED": 0x6FFFFFFE,
    "VERSYM": 0x6FFFFFFF,
}


def entry(
    architecture: str, kind: str = "cubin", compression: str = "", *, debug: bool = False, header: int = 64
) -> bytes:
    """One entry of a fatbin container, for an architecture such as `90a`."""
    number, feature = architecture.rstrip("af"), architecture[len(architecture.rstrip("af")) :]
    payload = _MAGIC[compression].ljust(64, b"\1" if compression else b"\0")
    flags = _FLAGS[feature] | _COMPRESSION[compression] | (2 if debug else 0)
    fields = (_KINDS[kind], 0x101, header, len(payload), 0, 0, 8, 1, int(number), 0, 0, flags, 0, 4096)
    return struct.pack("<HHIQIIHHIIIQQQ", *fields).ljust(header, b"\0") + payload


def container(*entries: bytes) -> bytes:
    """A fatbin container."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def fatbin(*architectures: str, ptx: str = "", compression: str = "") -> bytes:
    """A section with one container that has a cubin for each architecture, such as `80`, `90a`, and a PTX."""
    cubins = [entry(architecture, compression=compression) for architecture in architectures]
    return container(*cubins, *([entry(ptx, "ptx")] if ptx else []))


@dataclass(frozen=True)
class Elf:
    """What a made-up shared library has; `versions` is library -> version -> symbols."""

    needed: Sequence[str] = ()
    soname: str = ""
    rpath: str = ""
    runpath: str = ""
    versions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    undefined: Sequence[str] = ()
    weak: Sequence[str] = ()
    defined: Sequence[str] = ()
    fatbin: bytes = b""
    stack: str = "plain"  # or "executable", or "unsaid"
    debug: bool = False
    data: bytes = b""
    machine: int = 62


class _Strings:
    def __init__(self) -> None:
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        offset = len(self.data)
        self.data += text.encode() + b"\0"
        return offset


def make_elf(elf: Elf) -> bytes:
    """The bytes of a 64-bit shared library with dynamic symbols, their versions, and a dynamic section."""
    strings = _Strings()
    symbols, indices = [bytes(24)], [0]
    needs: list[bytes] = []
    number = 2
    for position, (library, versions) in enumerate(elf.versions.items()):
        last = position == len(elf.versions) - 1
        auxiliary = b""
        for place, (version, names) in enumerate(versions.items()):
            following = 0 if place == len(versions) - 1 else 16
            auxiliary += struct.pack("<IHHII", 0, 0, number, strings.add(version), following)
            for name in names:
                symbols.append(struct.pack("<IBBHQQ", strings.add(name), 0x12, 0, 0, 0, 0))
                indices.append(number)
            number += 1
        head = struct.pack(
            "<HHIII", 1, len(versions), strings.add(library), 16, 0 if last else 16 + len(auxiliary)
        )
        needs.append(head + auxiliary)
    for names, info, section in ((elf.undefined, 0x12, 0), (elf.weak, 0x22, 0), (elf.defined, 0x12, 1)):
        for name in names:
            symbols.append(struct.pack("<IBBHQQ", strings.add(name), info, 0, section, 0, 0))
            indices.append(1)
    tags = [(1, strings.add(name)) for name in elf.needed]
    for tag, text in ((14, elf.soname), (15, elf.rpath), (29, elf.runpath)):
        tags += [(tag, strings.add(text))] if text else []
    dynamic = b"".join(struct.pack("<QQ", *pair) for pair in [*tags, (0, 0)])

    sections: list[tuple[str, int, bytes, int, int, int]] = [  # name, type, data, link, info, entry size
        (".dynstr", _NAMES["STRTAB"], bytes(strings.data), 0, 0, 0),
        (".dynsym", _NAMES["DYNSYM"], b"".join(symbols), 1, 1, 24),
        (".dynamic", _NAMES["DYNAMIC"], dynamic, 1, 0, 16),
        (".comment", _NAMES["PROGBITS"], b"GCC: (made up) 12.2.0\0GCC: (made up) 12.2.0\0", 0, 0, 1),
    ]
    if elf.versions:
        sections.append(
            (".gnu.version", _NAMES["VERSYM"], struct.pack(f"<{len(indices)}H", *indices), 2, 0, 2)
        )
        sections.append((".gnu.version_r", _NAMES["VERNEED"], b"".join(needs), 1, len(needs), 0))
    if elf.fatbin:
        sections.append((".nv_fatbin", _NAMES["PROGBITS"], elf.fatbin, 0, 0, 0))
    if elf.debug:
        sections.append((".debug_info", _NAMES["PROGBITS"], bytes(16), 0, 0, 0))
    if elf.data:
        sections.append((".rodata", _NAMES["PROGBITS"], elf.data, 0, 0, 0))
    return _assemble(sections, elf)


def _assemble(sections: list[tuple[str, int, bytes, int, int, int]], elf: Elf) -> bytes:
    names = _Strings()
    stacks = {"plain": [6], "executable": [7], "unsaid": []}[elf.stack]
    body = bytearray(64 + 56 * len(stacks))
    headers = [bytes(64)]
    for name, kind, data, link, info, size in sections:
        body += bytes(-len(body) % 8)
        headers.append(
            struct.pack("<IIQQQQIIQQ", names.add(name), kind, 0, 0, len(body), len(data), link, info, 8, size)
        )
        body += data
    own_name = names.add(".shstrtab")
    headers.append(struct.pack("<IIQQQQIIQQ", own_name, 3, 0, 0, len(body), len(names.data), 0, 0, 1, 0))
    body += names.data
    body += bytes(-len(body) % 8)
    start = len(body)
    body += b"".join(headers)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    fields = (3, elf.machine, 1, 0, 64, start, 0, 64, 56, len(stacks), 64, len(headers), len(headers) - 1)
    body[:64] = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    for index, flags in enumerate(stacks):
        segment = struct.pack("<IIQQQQQQ", 0x6474E551, flags, 0, 0, 0, 0, 0, 16)
        body[64 + 56 * index : 120 + 56 * index] = segment
    return bytes(body)


def pack_wheel(
    folder: Path,
    file_name: str,
    files: Mapping[str, bytes],
    metadata: Sequence[str] = (),
    *,
    record: bool = True,
) -> Path:
    """A wheel of these files, with METADATA (extra lines as given), WHEEL, a licence and RECORD."""
    name, version, python, abi, platform = file_name.removesuffix(".whl").split("-")
    info = f"{name}-{version}.dist-info"
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, "", "# Read me", ""]
    tags = [f"Tag: {python}-{abi}-{single}" for single in platform.split(".")]
    everything = {
        **files,
        f"{info}/LICENSE": b"the licence\n",
        f"{info}/METADATA": "\n".join(head).encode(),
        f"{info}/WHEEL": "\n".join(["Wheel-Version: 1.0", "Root-Is-Purelib: false", *tags, ""]).encode(),
    }
    lines = [f"{path},{_digest(data)},{len(data)}" for path, data in everything.items()]
    if record:
        everything[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file_name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in everything.items():
            archive.writestr(path, data)
    return folder / file_name


def _digest(data: bytes) -> str:
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
