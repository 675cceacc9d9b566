"""Wheels as files: reading one with distrust, and writing one whose bytes depend on its content only.

Sources: PEP 427 and the PyPA specification "Binary distribution format" for the layout, "Recording
installed projects" (PEP 376, PEP 627) for RECORD, PEP 425 for tags, and PKWARE's APPNOTE for the archive.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType

import deflate
from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.util.errors import AuditError

# libdeflate's levels reach from 1 to 12; from 10 on, five times the time brings 0.2% on compressed GPU code.
_COMPRESSION_LEVEL = 9
# The archive format can't say an earlier time (1980-01-01, seconds since 1970).
_EARLIEST_TIME = 315532800
_UNIX = 3
_ZIP_VERSION = 20
_UTF8_NAMES = 0x800
_LIMIT_BYTES = 0xFFFFFFFF
_LIMIT_MEMBERS = 0xFFFF
# No library is larger than this.
_MAX_UNPACKED_BYTES = 4 << 30
# What `zipfile` raises over damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")


class WheelError(AuditError):
    """A file that is no wheel, or one whose parts contradict each other."""


@dataclass(frozen=True)
class RecordEntry:
    """One line of RECORD: the file's digest as `sha256=<base64>`, and its size; empty and None without."""

    digest: str
    size_bytes: int | None


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name.

    Attributes:
        distribution: As it is written: `sageattention`.
        version: As it is written: `2.2.0+cu130.torch2.11`.
        python, abi, platform: The tag's parts, each perhaps several joined by dots.
    """

    distribution: str
    version: str
    python: str
    abi: str
    platform: str

    @classmethod
    def parse(cls, file_name: str) -> WheelName:
        """Read a file name.

        Raises:
            WheelError: It is none of a wheel.
        """
        try:
            parse_wheel_filename(file_name)
        except (InvalidWheelFilename, ValueError) as error:
            raise WheelError(f"{file_name}: not the name of a wheel: {error}.") from error
        parts = file_name.removesuffix(".whl").split("-")
        return cls(parts[0], parts[1], *parts[-3:])

    @property
    def tag(self) -> str:
        """The whole tag: `cp312-cp312-linux_x86_64`."""
        return f"{self.python}-{self.abi}-{self.platform}"

    @property
    def tags(self) -> frozenset[Tag]:
        """The tag, with each combination of its parts by itself."""
        return parse_tag(self.tag)

    @property
    def local_version(self) -> str:
        """What stands after the `+` of the version; empty without one."""
        return self.version.partition("+")[2].replace("_", ".")


class Wheel:
    """A wheel that is open for reading; a context manager.

    Raises:
        WheelError: The file is no zip archive, has unsafe or double names, or no single `*.dist-info`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = WheelName.parse(path.name)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise WheelError(f"{path}: can't be read as a wheel: {error}.") from error
        try:
            self.members = self._members()
            self.dist_info = self._dist_info()
        except WheelError:
            self._zip.close()
            raise

    def __enter__(self) -> Wheel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            refuse_unsafe_name(info.filename, str(self.path))
            if stat.S_ISLNK(info.external_attr >> 16):
                raise WheelError(f"{self.path}: {info.filename} is a symbolic link.")
            if info.filename in members:
                raise WheelError(f"{self.path}: {info.filename} is in it twice.")
            members[info.filename] = info
        return members

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
        """The bytes of one file.

        Raises:
            WheelError: There is none of that name, or its bytes are damaged.
        """
        return self.head(name, -1)

    def head(self, name: str, size_bytes: int) -> bytes:
        """The first bytes of one file, without unpacking the rest; all of them with a size of -1.

        Raises:
            WheelError: There is none of that name, or its bytes are damaged.
        """
        if name not in self.members:
            raise WheelError(f"{self.path}: {name} is missing.")
        if self.members[name].file_size > _MAX_UNPACKED_BYTES:
            raise WheelError(f"{self.path}: {name} unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB.")
        try:
            with self._zip.open(name) as stream:
                return stream.read(size_bytes)
        except _DAMAGE as error:
            raise WheelError(f"{self.path}: {name} is damaged: {error}.") from error

    def in_dist_info(self, name: str) -> str:
        """The archive's name of a file in `*.dist-info`."""
        return f"{self.dist_info}/{name}"

    @cached_property
    def metadata(self) -> Message:
        """METADATA."""
        return parse_headers(self.read(self.in_dist_info("METADATA")))

    @cached_property
    def wheel_metadata(self) -> Message:
        """The file WHEEL."""
        return parse_headers(self.read(self.in_dist_info("WHEEL")))

    @cached_property
    def record(self) -> dict[str, RecordEntry]:
        """RECORD, by file name.

        Raises:
            WheelError: It is missing, or a line of it is no record.
        """
        text = self.read(self.in_dist_info("RECORD")).decode("utf-8", "surrogateescape")
        entries: dict[str, RecordEntry] = {}
        for row in csv.reader(io.StringIO(text)):
            if not row:
                continue
            try:
                name, digest, size = row
                entries[name] = RecordEntry(digest, int(size) if size else None)
            except ValueError:
                raise WheelError(f"{self.path}: RECORD has the line {','.join(row)!r}.") from None
        return entries

    def elf_names(self) -> tuple[str, ...]:
        """Names of the files that are ELF files by their first bytes, sorted."""
        return tuple(sorted(name for name in self.members if self.head(name, 4) == b"\x7fELF"))


def parse_headers(data: bytes) -> Message:
    """Read METADATA or WHEEL: headers, an empty line, and text."""
    return BytesParser(policy=compat32).parsebytes(data)


def refuse_unsafe_name(name: str, where: str) -> None:
    """Stop at a name that would leave the folder that a wheel is unpacked into.

    Raises:
        WheelError: It is absolute, has `..` or a backslash in it, or is not normal (`a//b`, `./a`).
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or path.as_posix() != name:
        raise WheelError(f"{where}: the name {name!r} in it is not safe to unpack.")


def record_digest(data: bytes) -> str:
    """A file's digest as RECORD writes it: `sha256=`, and base64 for addresses without padding."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def record_problems(wheel: Wheel) -> list[str]:
    """What RECORD says wrongly of the files, one sentence each; empty where it is right.

    Raises:
        WheelError: RECORD is missing or can't be read.
    """
    problems: list[str] = []
    record = wheel.record
    unsigned = {wheel.in_dist_info("RECORD"), *map(wheel.in_dist_info, _SIGNATURES)}
    for name in wheel.names:
        entry = record.get(name)
        if name in unsigned:
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
    algorithm, _, expected = entry.digest.partition("=")
    # PEP 427: sha256 or better; md5 and sha1 are not permitted.
    if algorithm not in {"sha256", "sha384", "sha512"}:
        return [f"{name} has a digest by {algorithm} in RECORD, which PEP 427 doesn't permit"]
    actual = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    if actual != expected.rstrip("="):
        return [f"{name} has other bytes than RECORD says"]
    if entry.size_bytes is not None and entry.size_bytes != len(data):
        return [f"{name} is {len(data)} bytes long and RECORD says {entry.size_bytes}"]
    return []


def rewrite(
    wheel: Path,
    out_dir: Path,
    *,
    add: Mapping[str, bytes] | None = None,
    remove: Iterable[str] = (),
    edit_metadata: Callable[[bytes], bytes] | None = None,
    tag: str | None = None,
    epoch: int,
) -> Path:
    """Write a wheel anew so that equal content gives equal bytes.

    Members are sorted, with `*.dist-info` at the end as PEP 427 recommends; each has the same time, mode
    0644 (shared libraries and scripts 0755), no extra fields, and a fresh RECORD. Folders are left out.

    The compressor is libdeflate of the pinned package `deflate`, and not Python's zlib: some builds of
    Python (Fedora's, the ones that uv fetches) have zlib-ng in its place, whose output differs. With
    the same version of `deflate` the bytes are the same with every Python on every x86_64 machine.

    Args:
        wheel: What to rewrite; stays as it is.
        out_dir: Where the new one goes; may be the same folder.
        add: Archive name -> bytes of files to add or replace.
        remove: Archive names of files to leave out.
        edit_metadata: Takes the bytes of METADATA and gives new ones.
        tag: The whole new tag, such as `cp312-cp312-manylinux_2_34_x86_64`, for WHEEL and the file name.
        epoch: The members' time, seconds since 1970 (SOURCE_DATE_EPOCH); before 1980 counts as 1980.

    Returns:
        The new wheel's path.

    Raises:
        WheelError: The wheel can't be read, a name to add is unsafe, or one to remove is not there.
    """
    with Wheel(wheel) as source:
        for member in add or ():
            refuse_unsafe_name(member, "files to add")
        left_out = set(remove)
        if unknown := left_out - set(source.names):
            raise WheelError(f"{wheel}: can't leave out {', '.join(sorted(unknown))}: not in it.")
        left_out |= {source.in_dist_info(file) for file in ("RECORD", *_SIGNATURES)}
        files = {member: source.read(member) for member in source.names if member not in left_out}
        files.update(add or {})
        if edit_metadata is not None:
            metadata = source.in_dist_info("METADATA")
            files[metadata] = edit_metadata(files[metadata])
        name = source.name
        if tag is not None:
            about = source.in_dist_info("WHEEL")
            files[about] = _with_tag(files[about], tag)
            name = WheelName.parse(f"{name.distribution}-{name.version}-{tag}.whl")
        prefix = f"{source.dist_info}/"
    order = sorted(files, key=lambda member: (member.startswith(prefix), member))
    members = [(member, files[member]) for member in order]
    members.append((f"{prefix}RECORD", _record(members, f"{prefix}RECORD")))
    out_dir.mkdir(parents=True, exist_ok=True)
    final = out_dir / f"{name.distribution}-{name.version}-{name.tag}.whl"
    partial = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(_archive(members, epoch))
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
    return final


def _with_tag(about: bytes, tag: str) -> bytes:
    lines = [line for line in about.decode().splitlines() if line and not line.startswith("Tag:")]
    lines += [f"Tag: {single}" for single in sorted(map(str, parse_tag(tag)))]
    return ("\n".join(lines) + "\n").encode()


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
    """A zip archive by hand, since `zipfile` takes no compressor and its headers differ by version."""
    when = time.gmtime(max(epoch, _EARLIEST_TIME))
    day = ((when.tm_year - 1980) << 9) | (when.tm_mon << 5) | when.tm_mday
    clock = (when.tm_hour << 11) | (when.tm_min << 5) | (when.tm_sec // 2)
    body, directory = bytearray(), bytearray()
    for name, data in members:
        if max(len(data), len(body)) > _LIMIT_BYTES or len(members) > _LIMIT_MEMBERS:
            raise WheelError(f"{name}: the wheel would be larger than 4 GiB.")
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
