"""Reads wheels, and writes them so that their bytes depend on their content only.

Sources: PEP 427 and the PyPA specification "Binary distribution format" for the layout, "Recording
installed projects" (PEP 376, PEP 627) for RECORD, the "Core metadata specifications" for METADATA, and
PKWARE's APPNOTE for the archive.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from email.message import Message
from functools import cached_property
from pathlib import Path, PurePosixPath

import deflate
from packaging.metadata import RawMetadata, parse_email

from builder.util import files
from builder.wheel.label import WheelError, WheelLabel

# Files of `*.dist-info` that RECORD does not list with a digest: itself, and its signatures (PEP 427).
RECORD_FILES = ("RECORD", "RECORD.jws", "RECORD.p7s")
# What `zipfile` raises over damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
# libdeflate's levels reach from 1 to 12; from 10 on, five times the time saves 0.2% of compressed GPU code.
_COMPRESSION_LEVEL = 9
_ZIP_VERSION = 20
_UNIX = 3 << 8  # made on
_UTF8_NAMES = 0x800


class Wheel:
    """A wheel that is open for reading; a context manager.

    Attributes:
        names: Names of all files, in the archive's order.

    Raises:
        WheelError: The file is not a zip archive, or holds a file twice, or not one `*.dist-info`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, WheelLabel.parse(path.name)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise WheelError(f"{path}: can't be read as a wheel: {error}.") from error
        self.names = tuple(name for name in self._zip.namelist() if not name.endswith("/"))
        folders = {name.partition("/")[0] for name in self.names if ".dist-info/" in name}
        if len(folders) != 1 or len(set(self.names)) != len(self.names):
            self._zip.close()
            raise WheelError(f"{path}: it holds a file twice, or not one folder *.dist-info.")
        self.dist_info = folders.pop()

    def __enter__(self) -> Wheel:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; WheelError if it is missing or damaged."""
        try:
            return self._zip.read(name)
        except KeyError:
            raise WheelError(f"{self.path}: {name} is missing.") from None
        except _DAMAGE as error:
            raise WheelError(f"{self.path}: {name} is damaged: {error}.") from error

    def in_dist_info(self, name: str) -> str:
        """Return the archive's name of a file in `*.dist-info`."""
        return f"{self.dist_info}/{name}"

    @cached_property
    def metadata(self) -> RawMetadata:
        """The fields of METADATA; those that can't be read are left out."""
        return parse_email(self.read(self.in_dist_info("METADATA")))[0]

    @cached_property
    def wheel_metadata(self) -> Message:
        """The file WHEEL."""
        return message_from_bytes(self.read(self.in_dist_info("WHEEL")))


def record_problems(wheel: Wheel) -> list[str]:
    """Return what is wrong in RECORD, one sentence each; empty if all is right.

    `importlib.metadata` can't say which files are missing, and checks no digests.
    """
    text = wheel.read(wheel.in_dist_info("RECORD")).decode("utf-8", "surrogateescape")
    digests = {row[0]: row[1] if len(row) > 1 else "" for row in csv.reader(io.StringIO(text)) if row}
    sentences = [f"{name} is in RECORD and not in the wheel" for name in digests.keys() - set(wheel.names)]
    for name in set(wheel.names) - set(map(wheel.in_dist_info, RECORD_FILES)):
        algorithm, _, digest = digests.get(name, "").partition("=")
        if algorithm not in {"sha256", "sha384", "sha512"}:  # PEP 427 permits no weaker ones
            sentences.append(f"{name} has no digest of at least SHA-256 in RECORD")
        elif _digest(wheel.read(name), algorithm) != digest.rstrip("="):
            sentences.append(f"{name} has a different digest in RECORD")
    return sorted(sentences)


def _digest(data: bytes, algorithm: str = "sha256") -> str:
    """Return a file's digest as RECORD has it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()


def write_wheel(path: Path, content: Mapping[str, bytes], *, epoch: int) -> Path:
    """Write a wheel, whole or not at all, and return its path; equal content gives equal bytes.

    Members are sorted, with `*.dist-info` at the end as PEP 427 recommends. All have the same time, mode 0644
    (shared libraries and scripts 0755) and no extra fields.

    The compressor is libdeflate of the pinned package `deflate`, not Python's zlib: some builds of Python
    (Fedora's, uv's) have zlib-ng instead, whose output differs. With the same version of `deflate` the bytes
    are the same with every Python on every x86_64 machine.

    The content is archive name -> bytes of each file but RECORD, which is made here. The epoch is the
    members' time, seconds since 1970 (SOURCE_DATE_EPOCH); the format holds none before 1980.
    """
    dist_info = next(name.partition("/")[0] for name in content if ".dist-info/" in name)
    members = sorted(content.items(), key=lambda member: (member[0].startswith(f"{dist_info}/"), member[0]))
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    rows.writerows((name, f"sha256={_digest(data)}", len(data)) for name, data in members)
    rows.writerow((f"{dist_info}/RECORD", "", ""))
    members.append((f"{dist_info}/RECORD", record.getvalue().encode()))
    files.write(path, _archive(members, epoch))
    return path


def _mode(name: str) -> int:
    path = PurePosixPath(name)
    library = path.suffix == ".so" or ".so." in path.name
    return stat.S_IFREG | (0o755 if library or ".data/scripts/" in name else 0o644)


def _archive(members: Iterable[tuple[str, bytes]], epoch: int) -> bytes:
    """Make a zip archive by hand: `zipfile` has its own compressor, and headers that differ by version."""
    when = time.gmtime(epoch)
    day = ((when.tm_year - 1980) << 9) | (when.tm_mon << 5) | when.tm_mday
    clock = (when.tm_hour << 11) | (when.tm_min << 5) | (when.tm_sec // 2)
    body, directory, count = bytearray(), bytearray(), 0
    for name, data in members:
        raw_name = name.encode()
        packed = bytes(deflate.deflate_compress(data, _COMPRESSION_LEVEL))
        method = zipfile.ZIP_DEFLATED
        if len(packed) >= len(data):
            packed, method = data, zipfile.ZIP_STORED
        flags = 0 if name.isascii() else _UTF8_NAMES
        sizes = (zlib.crc32(data), len(packed), len(data), len(raw_name), 0)
        common = struct.pack("<HHHHHIIIHH", _ZIP_VERSION, flags, method, clock, day, *sizes)
        directory += b"PK\x01\x02" + struct.pack("<H", _UNIX | _ZIP_VERSION) + common
        directory += struct.pack("<HHHII", 0, 0, 0, _mode(name) << 16, len(body)) + raw_name
        body += b"PK\x03\x04" + common + raw_name + packed
        count += 1
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\x05\x06" + end
