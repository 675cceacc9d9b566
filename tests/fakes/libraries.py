"""Small shared libraries, made by the real compiler, and wheels of them."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.wheel.wheelfile import write_wheel

NAME = "sageattention-2.2.0+cu130.torch2.11.2-cp312-cp312-linux_x86_64.whl"
EPOCH = 1761613216
INFO = "sageattention-2.2.0+cu130.torch2.11.2.dist-info"
_SUFFIX_FLAGS = {"": 0x11, "a": 0x100011, "f": 0x200011}
_COMPRESSION_FLAGS = {"": 0, "lz4": 0x2000, "zstd": 0x8000}
_MAGIC = {"": b"\x7fELF", "lz4": b"\xf0\x7fELF", "zstd": b"\x28\xb5\x2f\xfd"}
_KINDS = {"ptx": 1, "cubin": 2, "ltoir": 8}


def compile_library(
    path: Path,
    code: str = "int go() { return 0; }",
    *flags: str | Path,
    version: str = "",
    fatbin: bytes = b"",
) -> Path:
    """Compile a shared library that needs nothing but what `flags` name; its SONAME is the file's name.

    Args:
        path: The library.
        code: C.
        flags: Further arguments of gcc, such as other libraries.
        version: The version of all symbols that it defines, such as `GLIBC_2.34`.
        fatbin: What its section of GPU code holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source, script, section = (path.with_name(path.name + suffix) for suffix in (".c", ".map", ".fatbin"))
    if fatbin:
        section.write_bytes(fatbin)
        code += f'\n__asm__(".section .nv_fatbin,\\"a\\"\\n.incbin \\"{section}\\"\\n.previous");'
    source.write_text(code + "\n")
    command: list[str | Path] = [
        "gcc",
        "-shared",
        "-fPIC",
        "-nostdlib",
        f"-Wl,-soname,{path.name}",
        source,
        "-o",
        path,
    ]
    if version:
        script.write_text(f"{version} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={script}")
    subprocess.run([*command, *flags], check=True)
    for used in (source, script, section):
        used.unlink(missing_ok=True)
    return path


def entry(
    architecture: str, kind: str = "cubin", compression: str = "", *, debug: bool = False, header: int = 64
) -> bytes:
    """One entry of a fatbin container, for an architecture such as `90a`."""
    number, suffix = architecture.rstrip("af"), architecture[len(architecture.rstrip("af")) :]
    payload = _MAGIC[compression].ljust(64, b"\1" if compression else b"\0")
    flags = _SUFFIX_FLAGS[suffix] | _COMPRESSION_FLAGS[compression] | (2 if debug else 0)
    fields = (_KINDS[kind], 0x101, header, len(payload), 0, 0, 8, 1, int(number), 0, 0, flags, 0, 4096)
    return struct.pack("<HHIQIIHHIIIQQQ", *fields).ljust(header, b"\0") + payload


def container(*entries: bytes) -> bytes:
    """A fatbin container."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def pack_wheel(
    folder: Path, files: Mapping[str, bytes], metadata: Sequence[str] = (), *, name: str = NAME
) -> Path:
    """A wheel of these files, with METADATA (extra lines as given), WHEEL, a licence and RECORD."""
    distribution, version, *_, python, abi, platform = name.removesuffix(".whl").split("-")
    info = f"{distribution}-{version}.dist-info"
    head = ["Metadata-Version: 2.4", f"Name: {distribution}", f"Version: {version}", *metadata]
    about = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {python}-{abi}-{platform}\n"
    members = {
        **files,
        f"{info}/licenses/LICENSE": b"the licence\n",
        f"{info}/METADATA": "\n".join([*head, "", "# Read me", ""]).encode(),
        f"{info}/WHEEL": about.encode(),
    }
    return write_wheel(folder / name, members, epoch=EPOCH)
