"""Lists the GPU code in a shared library's `.nv_fatbin` section, without any of NVIDIA's tools.

NVIDIA publishes no description of this format: the toolkit's `fatbinary_section.h` names the section, and
the outer magic is common knowledge. The rest was found by comparing what nvcc of CUDA 12.4 and 13.0 writes
for known inputs: every architecture with the suffixes `a` and `f`, with and without `-lineinfo`, `-G`,
`-rdc`, link-time optimisation, and in each compression mode. The tests compare it with
`cuobjdump --list-elf`.

The section is a row of containers, one for each compiled source file, with zero bytes between them for
alignment (8 bytes). All numbers are little-endian.

    container   u32 magic 0xBA55ED50, u16 version (1), u16 size of this header (16),
                u64 size of the entries that follow
    entry       +0   u16 kind: 1 PTX, 2 cubin (an ELF file), 8 intermediate code for link-time optimisation
                +2   u16 version (0x0101)
                +4   u32 size of this header (64 and more, with names and options at its end)
                +8   u64 size of the payload as it is stored, padded to 8 bytes
                +16  u32 size of the payload without padding where it is compressed, else 0
                +20  u32 offset of the options in the header, or 0
                +24  u16 minor, u16 major: version of PTX or of the cubin's ABI
                +28  u32 architecture as a number: 90 is sm_90
                +32  u32 offset and +36 u32 length of the source file's name, or 0
                +40  u64 flags: 1<<1 made for a debugger (-G), 1<<13 LZ4, 1<<15 Zstandard, 1<<20 suffix a,
                     1<<21 suffix f; others say: 64-bit, made on Linux
                +48  u64 reserved (a hash in entries for link-time optimisation)
                +56  u64 size of the payload when unpacked, where it is compressed

The suffix of `sm_90a` stands in the entry's flags, for both CUDA versions and whether compressed or not.
(The cubin itself says it only in the ABI of CUDA 12: bit 0x800 of its `e_flags`; in that of CUDA 13,
sm_90 and sm_90a have the same `e_flags`.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from builder.target.architectures import Architecture
from builder.util.errors import AuditError

_MAGIC = 0xBA55ED50
_ALIGNMENT = 8
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_CUBIN = 2
_KINDS = {1: "ptx", _CUBIN: "cubin", 8: "ltoir"}
_COMPRESSED_LZ4, _COMPRESSED_ZSTANDARD = 1 << 13, 1 << 15
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # the magic of its frames (RFC 8878)
_DEBUG, _SUFFIX_A, _SUFFIX_F = 1 << 1, 1 << 20, 1 << 21


class FatbinError(AuditError):
    """A `.nv_fatbin` section that can't be read."""


@dataclass(frozen=True)
class Code:
    """One piece of GPU code.

    Attributes:
        kind: `cubin` (runs on its architecture), `ptx` (the driver compiles it), `ltoir`, or `kind N` for an
            unknown one.
        debug: Whether it was made for a debugger (`-G`).
        container: Which container it is in, from 0: each source file has its own.
    """

    kind: str
    architecture: Architecture
    debug: bool
    container: int = 0


def read_fatbin(section: bytes) -> tuple[Code, ...]:
    """Return the GPU code in a `.nv_fatbin` section, in the order of the file."""
    entries: list[Code] = []
    offset, number = _skip_padding(section, 0), 0
    while offset < len(section):
        end, codes = _read_container(section, offset)
        entries += (replace(code, container=number) for code in codes)
        offset, number = _skip_padding(section, end), number + 1
    return tuple(entries)


def cubin_architectures(codes: Iterable[Code]) -> tuple[Architecture, ...]:
    """Return the architectures that there is a cubin for, sorted, each once."""
    return tuple(sorted({code.architecture for code in codes if code.kind == "cubin"}))


def ptx_architectures(codes: Iterable[Code]) -> tuple[Architecture, ...]:
    """Return the architectures that there is PTX for, sorted, each once."""
    return tuple(sorted({code.architecture for code in codes if code.kind == "ptx"}))


def _skip_padding(section: bytes, offset: int) -> int:
    while offset < len(section) and section[offset] == 0:
        offset += 1
    # The magic's first byte is not zero, so a container starts exactly here, on its alignment.
    if offset < len(section) and offset % _ALIGNMENT:
        raise FatbinError(f"offset {offset:#x}: there is no fatbin container where one should start.")
    return offset


def _read_container(section: bytes, start: int) -> tuple[int, list[Code]]:
    if len(section) - start < _CONTAINER.size:
        raise FatbinError(f"offset {start:#x}: the section ends within a container's header.")
    magic, version, header_bytes, entries_bytes = _CONTAINER.unpack_from(section, start)
    if magic != _MAGIC:
        raise FatbinError(f"offset {start:#x}: {magic:#010x} is not the magic of a fatbin container.")
    if version != 1 or header_bytes < _CONTAINER.size:
        raise FatbinError(f"offset {start:#x}: unknown container (version {version}, {header_bytes} bytes).")
    end = start + header_bytes + entries_bytes
    if end > len(section):
        raise FatbinError(f"offset {start:#x}: the container is longer than the section.")
    codes: list[Code] = []
    offset = start + header_bytes
    while offset < end:
        offset, code = _read_entry(section, offset, end)
        codes.append(code)
    return end, codes


def _read_entry(section: bytes, start: int, end: int) -> tuple[int, Code]:
    if end - start < _ENTRY.size:
        raise FatbinError(f"offset {start:#x}: the container ends within an entry's header.")
    values = _ENTRY.unpack_from(section, start)
    kind, _, header_bytes, payload_bytes, _, _, _, _, number, _, _, flags, _, _ = values
    if header_bytes < _ENTRY.size or start + header_bytes + payload_bytes > end:
        raise FatbinError(f"offset {start:#x}: an entry is longer than its container.")
    if not 10 <= number < 1000:
        raise FatbinError(f"offset {start:#x}: {number} is not an architecture.")
    payload = section[start + header_bytes : start + header_bytes + payload_bytes]
    magic = _ZSTANDARD if flags & _COMPRESSED_ZSTANDARD else b"" if flags & _COMPRESSED_LZ4 else b"\x7fELF"
    # What is compressed has few zeros; a cubin as it is has many.
    most_zeros = len(payload) // 2 if flags & (_COMPRESSED_ZSTANDARD | _COMPRESSED_LZ4) else len(payload) - 1
    if payload.count(0) > most_zeros or (kind == _CUBIN and not payload.startswith(magic)):
        raise FatbinError(f"offset {start:#x}: an entry for sm_{number} holds no GPU code.")
    suffix = "a" if flags & _SUFFIX_A else "f" if flags & _SUFFIX_F else ""
    architecture = Architecture(number // 10, number % 10, suffix)
    code = Code(_KINDS.get(kind, f"kind {kind}"), architecture, bool(flags & _DEBUG))
    return start + header_bytes + payload_bytes, code


def gpu_code(codes: Iterable[Code]) -> tuple[str, ...]:
    """Return what GPUs find in a library: the architectures of its cubins, and `PTX 8.0` for PTX."""
    codes = tuple(codes)
    ptx = (f"PTX {architecture}" for architecture in ptx_architectures(codes))
    return (*map(str, cubin_architectures(codes)), *ptx)
