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
from dataclasses import dataclass

from builder.target.architectures import Architecture
from builder.util.errors import AuditError

_MAGIC, _VERSION, _ALIGNMENT = 0xBA55ED50, 1, 8
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_KINDS = {1: "ptx", 2: "cubin", 8: "ltoir"}
_COMPRESSED_LZ4, _COMPRESSED_ZSTANDARD = 1 << 13, 1 << 15
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # the magic of its frames (RFC 8878)
_DEBUG, _SUFFIX_A, _SUFFIX_F = 1 << 1, 1 << 20, 1 << 21


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
    """Return the GPU code in a `.nv_fatbin` section, in its order; AuditError if it can't be read."""
    codes: list[Code] = []
    offset = container = 0
    try:
        while offset < len(section):
            if not any(section[offset : offset + _ALIGNMENT]):
                offset += _ALIGNMENT  # between containers
                continue
            magic, version, header_bytes, entries_bytes = _CONTAINER.unpack_from(section, offset)
            offset += header_bytes
            end = offset + entries_bytes
            if (magic, version, header_bytes) != (_MAGIC, _VERSION, _CONTAINER.size) or end > len(section):
                raise ValueError("it is not a fatbin container, or not a whole one")
            while offset < end:
                code, offset = _read_entry(section, offset, container)
                codes.append(code)
            if offset > end:
                raise ValueError("an entry is longer than its container")
            container += 1
    except (struct.error, ValueError) as error:
        raise AuditError(f"GPU code at offset {offset:#x} of its section can't be read: {error}.") from None
    return tuple(codes)


def _read_entry(section: bytes, start: int, container: int) -> tuple[Code, int]:
    """Return the code of one entry, and where the next one starts."""
    values = _ENTRY.unpack_from(section, start)
    kind, _, header_bytes, payload_bytes, _, _, _, _, number, _, _, flags, _, _ = values
    name = _KINDS.get(kind, f"kind {kind}")
    magic = _ZSTANDARD if flags & _COMPRESSED_ZSTANDARD else b"" if flags & _COMPRESSED_LZ4 else b"\x7fELF"
    if header_bytes < _ENTRY.size or (
        name == "cubin" and not section.startswith(magic, start + header_bytes)
    ):
        raise ValueError(f"an entry for sm_{number} holds no code")
    suffix = "a" if flags & _SUFFIX_A else "f" if flags & _SUFFIX_F else ""
    architecture = Architecture(number // 10, number % 10, suffix)
    return Code(name, architecture, bool(flags & _DEBUG), container), start + header_bytes + payload_bytes


def cubin_architectures(codes: Iterable[Code]) -> tuple[Architecture, ...]:
    """Return the architectures that there is a cubin for, sorted, each once."""
    return tuple(sorted({code.architecture for code in codes if code.kind == "cubin"}))


def ptx_architectures(codes: Iterable[Code]) -> tuple[Architecture, ...]:
    """Return the architectures that there is PTX for, sorted, each once."""
    return tuple(sorted({code.architecture for code in codes if code.kind == "ptx"}))


def gpu_code(codes: Iterable[Code]) -> tuple[str, ...]:
    """Return what GPUs find in a library: the architectures of its cubins, and `PTX 8.0` for PTX."""
    codes = tuple(codes)
    ptx = (f"PTX {architecture}" for architecture in ptx_architectures(codes))
    return (*map(str, cubin_architectures(codes)), *ptx)
