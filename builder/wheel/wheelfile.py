"""Reads wheels.

Sources: PEP 427 and the PyPA specification "Binary distribution format" for the layout, "Recording
installed projects" (PEP 376, PEP 627) for RECORD, and the "Core metadata specifications" for METADATA.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
import zlib
from email import message_from_bytes
from email.message import Message
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType

from packaging.metadata import RawMetadata, parse_email

from builder.wheel.elf import is_elf
from builder.wheel.label import WheelError, WheelLabel

__all__ = ["RECORD_FILES", "Wheel", "WheelError", "record_digest", "record_problems"]

# Files of `*.dist-info` that RECORD does not list with a digest: itself, and its signatures (PEP 427).
RECORD_FILES = ("RECORD", "RECORD.jws", "RECORD.p7s")
# What `zipfile` raises over damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Wheel:
    """A wheel that is open for reading; a context manager.

    Raises:
        WheelError: The file is not a zip archive, has unsafe or double names, or not one `*.dist-info`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = WheelLabel.parse(path.name)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise WheelError(f"{path}: can't be read as a wheel: {error}.") from error
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self.members = {info.filename: info for info in infos}
        folders = {name.split("/")[0] for name in self.members}
        folders = {name for name in folders if name.endswith(".dist-info")}
        problem = ""
        if len(infos) != len(self.members):
            problem = "holds a file twice"
        elif unsafe := next((name for name in self.members if not _is_safe(name)), ""):
            problem = f"the name {unsafe!r} in it is not safe to unpack"
        elif len(folders) != 1:
            problem = f"has {len(folders)} folders *.dist-info, and a wheel has one"
        if problem:
            self._zip.close()
            raise WheelError(f"{path}: {problem}.")
        self.dist_info = folders.pop()

    def __enter__(self) -> Wheel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, in the archive's order."""
        return tuple(self.members)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; WheelError if it is missing or damaged."""
        if name not in self.members:
            raise WheelError(f"{self.path}: {name} is missing.")
        try:
            return self._zip.read(name)
        except _DAMAGE as error:
            raise WheelError(f"{self.path}: {name} is damaged: {error}.") from error

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of one file, lower-case hexadecimal."""
        return hashlib.sha256(self.read(name)).hexdigest()

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

    def elf_names(self) -> tuple[str, ...]:
        """Return the names of the files that are ELF files by their first bytes, sorted."""
        return tuple(sorted(name for name in self.members if is_elf(self.read(name))))


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and path.as_posix() == name


def record_digest(data: bytes, algorithm: str = "sha256") -> str:
    """Return a file's digest as RECORD has it: `sha256=`, and URL-safe base64 without padding."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=")
    return f"{algorithm}={digest.decode()}"


def record_problems(wheel: Wheel) -> list[str]:
    """Return what is wrong in RECORD, one sentence each; empty if all is right.

    `importlib.metadata` can't say which files are missing, and checks no digests.
    """
    text = wheel.read(wheel.in_dist_info("RECORD")).decode("utf-8", "surrogateescape")
    record: dict[str, tuple[str, str]] = {}
    for row in filter(None, csv.reader(io.StringIO(text))):
        if len(row) != 3:
            raise WheelError(f"{wheel.path}: RECORD has the line {','.join(row)[:200]!r}.")
        name, digest, size = row
        record[name] = (digest, size)
    sentences = [f"{name} is in RECORD and not in the wheel" for name in record if name not in wheel.members]
    for name in set(wheel.names) - set(map(wheel.in_dist_info, RECORD_FILES)):
        digest, size = record.get(name, ("", ""))
        algorithm = digest.partition("=")[0]
        if name not in record:
            sentences.append(f"{name} is not in RECORD")
        elif algorithm not in {"sha256", "sha384", "sha512"}:  # PEP 427 permits no weaker ones
            sentences.append(f"{name} has no digest of at least SHA-256 in RECORD")
        elif record_digest(data := wheel.read(name), algorithm) != digest.rstrip("="):
            sentences.append(f"{name} has a different digest in RECORD")
        elif size and size != str(len(data)):
            sentences.append(f"{name} is {len(data)} bytes long and RECORD says {size}")
    return sorted(sentences)
