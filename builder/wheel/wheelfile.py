"""Reads wheels, and trusts nothing in them.

Sources: PEP 427 and the PyPA specification "Binary distribution format" for the layout, "Recording
installed projects" (PEP 376, PEP 627) for RECORD, and PEP 425 for tags.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.util.errors import AuditError
from builder.util.limits import ARCHIVE_MEMBERS, GIB, UNPACKED_WHEEL_BYTES
from builder.wheel.elf import is_elf

# What `zipfile` raises over damaged archives.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError),
    *(LookupError, OverflowError, MemoryError),
)
# A file's own header in a zip archive: signature, flags, method, CRC, sizes, lengths of name and extra field.
_HEADER = struct.Struct("<I2xHH4xIIIHH")
_MAGIC, _SIZES_FOLLOW, _UTF8, _LARGE = 0x04034B50, 1 << 3, 1 << 11, 0xFFFFFFFF
# Signatures of RECORD (PEP 427), which it can't list.
SIGNATURES = ("RECORD.jws", "RECORD.p7s")


class WheelError(AuditError):
    """A file that is not a wheel, or one whose parts contradict each other."""


@dataclass(frozen=True)
class RecordEntry:
    """One line of RECORD: the file's digest as `sha256=<base64>`, or empty, and its size, or None."""

    digest: str
    size_bytes: int | None


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name.

    Attributes:
        distribution: As it is written: `sageattention`.
        version: As it is written: `2.2.0+cu130.torch2.11`.
        python, abi, platform: The tag's parts; each can be several, joined by dots.
        build: The build tag; empty without one.
    """

    distribution: str
    version: str
    python: str
    abi: str
    platform: str
    build: str = ""

    @classmethod
    def parse(cls, file_name: str) -> WheelName:
        """Return the parts of a file name.

        Raises:
            WheelError: It is not the name of a wheel.
        """
        try:
            # packaging takes any character in a tag, and letters of any script in a name.
            if re.fullmatch(r"[\w.+!-]+", file_name, re.ASCII) is None:
                raise ValueError("it has characters that are none of A-Z a-z 0-9 _ . + ! -")
            parse_wheel_filename(file_name)
        except (InvalidWheelFilename, ValueError) as error:
            raise WheelError(f"{file_name}: not the name of a wheel: {error}.") from error
        parts = file_name.removesuffix(".whl").split("-")
        distribution, version, *build, python, abi, platform = parts
        return cls(distribution, version, python, abi, platform, "".join(build))

    @property
    def tag(self) -> str:
        """The whole tag: `cp312-cp312-linux_x86_64`."""
        return f"{self.python}-{self.abi}-{self.platform}"

    @property
    def tags(self) -> frozenset[Tag]:
        """Every single tag that the whole tag stands for."""
        return parse_tag(self.tag)

    @property
    def local_version(self) -> str:
        """What follows the `+` of the version; empty without one."""
        return self.version.partition("+")[2].replace("_", ".")


class Wheel:
    """A wheel that is open for reading; a context manager.

    Raises:
        WheelError: The file is not a zip archive, has unsafe or double names, or not one `*.dist-info`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = WheelName.parse(path.name)
        if path.exists() and not path.is_file():
            raise WheelError(f"{path}: can't be read as a wheel: it is not a file.")
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise WheelError(f"{path}: can't be read as a wheel: {error}.") from error
        try:
            self.members = self._members()
            self.dist_info = self._dist_info()
            with path.open("rb") as stream:
                self._compare_headers(stream)
        except WheelError:
            self._zip.close()
            raise
        except _DAMAGE as error:
            self._zip.close()
            raise WheelError(f"{path}: can't be read as a wheel: {error}.") from error

    def __enter__(self) -> Wheel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        entries = self._zip.infolist()
        if len(entries) > ARCHIVE_MEMBERS:
            raise WheelError(f"{self.path}: holds more than {ARCHIVE_MEMBERS} files.")
        if sum(info.file_size for info in entries) > UNPACKED_WHEEL_BYTES:
            raise WheelError(f"{self.path}: unpacks to more than {UNPACKED_WHEEL_BYTES // GIB} GiB.")
        for info in entries:
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            refuse_unsafe_name(name.removesuffix("/"), str(self.path))
            if kind not in {0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG}:
                what = "a symbolic link" if kind == stat.S_IFLNK else "not a plain file"
                raise WheelError(f"{self.path}: {name} is {what}.")
            if info.is_dir():
                continue
            if name in members:
                raise WheelError(f"{self.path}: holds {name} twice.")
            members[name] = info
        for name in members:
            for parent in map(str, PurePosixPath(name).parents):
                if parent in members:
                    raise WheelError(f"{self.path}: {parent} is a file, and {name} is in it.")
        return members

    def _compare_headers(self, stream: BinaryIO) -> None:
        """Stop where the archive's two lists of files disagree: each reader goes by one of them.

        Each file has a header before its bytes, and an entry in the directory at the archive's end
        (APPNOTE.TXT 4.3). Bytes that belong to neither are refused too.
        """
        end, gaps = 0, {0}
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            stream.seek(info.header_offset)
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise WheelError(f"{self.path}: {info.filename} has no header.")
            magic, flags, method, crc, packed, size, name_bytes, extra_bytes = _HEADER.unpack(header)
            name = stream.read(name_bytes).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
            sizes = (info.CRC, info.compress_size, info.file_size)
            # The sizes may follow the bytes instead, and large ones stand in the extra field.
            good = flags & _SIZES_FOLLOW or (crc, packed, size) == sizes or _LARGE in (packed, size)
            listed = (info.filename, info.flag_bits, info.compress_type)
            if magic != _MAGIC or (name, flags, method) != listed or not good:
                raise WheelError(f"{self.path}: the archive contradicts itself about {info.filename!r}.")
            if info.header_offset - end not in gaps:
                raise WheelError(f"{self.path}: the archive has bytes before {name} that belong to no file.")
            end = info.header_offset + _HEADER.size + name_bytes + extra_bytes + info.compress_size
            gaps = {0, 12, 16, 20, 24} if flags & _SIZES_FOLLOW else {0}
        if self._zip.start_dir - end not in gaps:
            raise WheelError(f"{self.path}: the archive has bytes after its files that belong to none.")

    def _dist_info(self) -> str:
        found = {name.split("/")[0] for name in self.members if name.split("/")[0].endswith(".dist-info")}
        if len(found) != 1:
            raise WheelError(f"{self.path}: has {len(found)} folders *.dist-info, and a wheel has one.")
        return found.pop()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, in the archive's order."""
        return tuple(self.members)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            WheelError: There is none of that name, or its bytes are damaged.
        """
        return self._head(name, -1)

    def _head(self, name: str, size_bytes: int) -> bytes:
        """Return the first bytes of one file, without unpacking the rest; all of them with a size of -1."""
        if name not in self.members:
            raise WheelError(f"{self.path}: {name} is missing.")
        try:
            with self._zip.open(name) as stream:
                return stream.read(size_bytes)
        except _DAMAGE as error:
            raise WheelError(f"{self.path}: {name} is damaged: {error}.") from error

    def in_dist_info(self, name: str) -> str:
        """Return the archive's name of a file in `*.dist-info`."""
        return f"{self.dist_info}/{name}"

    @cached_property
    def metadata(self) -> Message:
        """The file METADATA."""
        return message_from_bytes(self.read(self.in_dist_info("METADATA")))

    @cached_property
    def wheel_metadata(self) -> Message:
        """The file WHEEL."""
        return message_from_bytes(self.read(self.in_dist_info("WHEEL")))

    @cached_property
    def record(self) -> dict[str, RecordEntry]:
        """RECORD, by file name.

        Raises:
            WheelError: It is missing, or a line of it is not a record.
        """
        text = self.read(self.in_dist_info("RECORD")).decode("utf-8", "surrogateescape")
        entries: dict[str, RecordEntry] = {}
        try:
            rows = [row for row in csv.reader(io.StringIO(text)) if row]
        except csv.Error as error:
            raise WheelError(f"{self.path}: RECORD can't be read: {error}.") from None
        for row in rows:
            try:
                name, digest, size = row
                entry = RecordEntry(digest, int(size) if size else None)
            except ValueError:
                raise WheelError(f"{self.path}: RECORD has the line {','.join(row)[:200]!r}.") from None
            if entries.setdefault(name, entry) != entry:
                raise WheelError(f"{self.path}: RECORD has two lines for {name}, which disagree.")
        return entries

    def elf_names(self) -> tuple[str, ...]:
        """Return the names of the files that are ELF files by their first bytes, sorted."""
        return tuple(sorted(name for name in self.members if is_elf(self._head(name, 4))))


def refuse_unsafe_name(name: str, where: str) -> None:
    """Stop at a name that would lead out of the folder that a wheel is unpacked into.

    Args:
        name: The archive's name of a file.
        where: What to call the archive in the error.

    Raises:
        WheelError: It is absolute, has `..`, a backslash or control characters in it, or is not normal
            (`a//b`, `./a`).
    """
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or "\\" in name or path.as_posix() != name
    if bad or not name.isprintable():
        raise WheelError(f"{where}: the name {name!r} in it is not safe to unpack.")


def record_digest(data: bytes, algorithm: str = "sha256") -> str:
    """Return a file's digest as RECORD has it: `sha256=`, and URL-safe base64 without padding."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=")
    return f"{algorithm}={digest.decode()}"


def record_problems(wheel: Wheel) -> list[str]:
    """Return what is wrong in RECORD, one sentence each; empty if all is right.

    This reads RECORD itself: `importlib.metadata` can't say which files are missing, and checks no digests.

    Raises:
        WheelError: RECORD is missing or can't be read.
    """
    problems: list[str] = []
    record = wheel.record
    unlisted = {wheel.in_dist_info("RECORD"), *map(wheel.in_dist_info, SIGNATURES)}
    for name in wheel.names:
        entry = record.get(name)
        if name in unlisted:
            continue
        if entry is None:
            problems.append(f"{name} is not in RECORD")
        elif not entry.digest:
            problems.append(f"{name} has no digest in RECORD")
        else:
            problems += _compare(name, entry, wheel.read(name))
    problems += [f"{name} is in RECORD and not in the wheel" for name in record if name not in wheel.members]
    return problems


def _compare(name: str, entry: RecordEntry, data: bytes) -> list[str]:
    algorithm = entry.digest.partition("=")[0]
    # PEP 427: sha256 or better; md5 and sha1 are not permitted.
    if algorithm not in {"sha256", "sha384", "sha512"}:
        return [f"{name} has a digest by {algorithm} in RECORD, which PEP 427 doesn't permit"]
    if record_digest(data, algorithm) != entry.digest.rstrip("="):
        return [f"{name} has a different digest in RECORD"]
    if entry.size_bytes is not None and entry.size_bytes != len(data):
        return [f"{name} is {len(data)} bytes long and RECORD says {entry.size_bytes}"]
    return []
