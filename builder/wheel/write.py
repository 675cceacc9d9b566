"""Writes a wheel whose bytes depend on its content only.

Sources: PEP 427 for the layout and RECORD, and PKWARE's APPNOTE for the archive.
"""

from __future__ import annotations

import csv
import io
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import deflate

from builder.util import files
from builder.wheel.wheelfile import record_digest

# libdeflate's levels reach from 1 to 12; from 10 on, five times the time saves 0.2% of compressed GPU code.
_COMPRESSION_LEVEL = 9
# The archive format can't hold an earlier time (1980-01-01, seconds since 1970).
_EARLIEST_TIME = 315532800
_UNIX = 3
_ZIP_VERSION = 20
_UTF8_NAMES = 0x800


def write_wheel(path: Path, content: Mapping[str, bytes], *, epoch: int) -> Path:
    """Write a wheel, whole or not at all, and return its path; equal content gives equal bytes.

    Members are sorted, with `*.dist-info` at the end as PEP 427 recommends. All have the same time, mode 0644
    (shared libraries and scripts 0755) and no extra fields.

    The compressor is libdeflate of the pinned package `deflate`, not Python's zlib: some builds of Python
    (Fedora's, uv's) have zlib-ng instead, whose output differs. With the same version of `deflate` the bytes
    are the same with every Python on every x86_64 machine.

    The content is archive name -> bytes of each file but RECORD, which is made here. The epoch is the
    members' time, seconds since 1970 (SOURCE_DATE_EPOCH); before 1980 counts as 1980.
    """
    dist_info = next(name.partition("/")[0] for name in content if ".dist-info/" in name)
    members = sorted(content.items(), key=lambda member: (member[0].startswith(f"{dist_info}/"), member[0]))
    members.append((f"{dist_info}/RECORD", _record(members, f"{dist_info}/RECORD")))
    files.write(path, _archive(members, epoch))
    return path


def _record(members: Sequence[tuple[str, bytes]], own_name: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, data in members:
        writer.writerow((name, record_digest(data), len(data)))
    writer.writerow((own_name, "", ""))
    return text.getvalue().encode()


def _mode(name: str) -> int:
    path = PurePosixPath(name)
    library = path.suffix == ".so" or ".so." in path.name
    script = len(path.parts) > 2 and path.parts[0].endswith(".data") and path.parts[1] == "scripts"
    return stat.S_IFREG | (0o755 if library or script else 0o644)


def _archive(members: Sequence[tuple[str, bytes]], epoch: int) -> bytes:
    """Make a zip archive by hand: `zipfile` has its own compressor, and headers that differ by version."""
    when = time.gmtime(max(epoch, _EARLIEST_TIME))
    day = ((when.tm_year - 1980) << 9) | (when.tm_mon << 5) | when.tm_mday
    clock = (when.tm_hour << 11) | (when.tm_min << 5) | (when.tm_sec // 2)
    body, directory = bytearray(), bytearray()
    for name, data in members:
        raw_name = name.encode()
        packed = bytes(deflate.deflate_compress(data, _COMPRESSION_LEVEL))
        method = zipfile.ZIP_DEFLATED
        if len(packed) >= len(data):
            packed, method = data, zipfile.ZIP_STORED
        flags = 0 if name.isascii() else _UTF8_NAMES
        offset = len(body)
        sizes = (zlib.crc32(data), len(packed), len(data), len(raw_name), 0)
        common = struct.pack("<HHHHHIIIHH", _ZIP_VERSION, flags, method, clock, day, *sizes)
        body += b"PK\x03\x04" + common + raw_name + packed
        made_by = struct.pack("<H", (_UNIX << 8) | _ZIP_VERSION)
        directory += b"PK\x01\x02" + made_by + common
        directory += struct.pack("<HHHII", 0, 0, 0, _mode(name) << 16, offset) + raw_name
    count = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\x05\x06" + end
