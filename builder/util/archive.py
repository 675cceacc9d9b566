"""Unpacks an archive from outside without trusting its member names.

Only files, folders and links are made, all of them inside the folder; a member that would be anything
else, or anywhere else, refuses the whole archive by the member's name. Members are written by this
module and not by `tarfile` or `zipfile`, because Python 3.10 and the first 3.11 have no extraction
filter (PEP 706), and because zip files need the same checks. Links are made last, so that nothing can
be written through one.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.util.errors import DownloadError

MAX_BYTES = 8 << 30
MAX_MEMBERS = 200_000
_MOST_LINKS_IN_A_ROW = 40  # as Linux follows (path_resolution(7))

_LATEST_MTIME = 1 << 33  # all file systems can hold it

_Parts = tuple[str, ...]


def unpack(archive: Path, into: Path, strip_components: int = 1, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a `.tar.*` or `.zip` file.

    Files get mode 644, or 755 where their owner may execute them; folders 755; hard links become copies.

    Args:
        archive: The file; what it is is seen from its bytes, not from its name.
        into: The folder to make; it must not be there, or be empty. It appears whole or not at all.
        strip_components: Leading folders to leave away; all members must share them.
        max_bytes: The most that may come out.

    Raises:
        DownloadError: The archive is damaged or of no known kind, or a member can't be allowed.
    """
    partial = into.with_name(f".{into.name}.{os.getpid()}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _complaints(archive):
            into.parent.mkdir(parents=True, exist_ok=True)
            if into.is_dir() and any(into.iterdir()):
                raise FileExistsError(f"{into} is not empty")
            unpacking = _Unpacking(archive, partial, strip_components, max_bytes)
            for member in _members(archive):
                unpacking.take(member)
            unpacking.finish()
            partial.replace(into)  # over an empty folder, or nothing
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def git_commit(archive: Path) -> str:
    """Return the commit that `git archive` wrote into a tar file, as forges do; empty without one."""
    try:
        with tarfile.open(archive) as tar:
            comment = tar.pax_headers.get("comment", "")
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return ""
    return comment if re.fullmatch(r"[0-9a-f]{40}", comment) else ""


@dataclass(frozen=True)
class _Member:
    """One member of either kind of archive.

    Attributes:
        name: As the archive has it.
        kind: `file`, `folder`, `link` (symbolic), `hardlink`, or else what it is, for the message.
        size_bytes: As the archive says.
        executable: Whether its owner may execute it.
        mtime: Seconds since 1970; None where the archive's time has no zone.
        target: Of a link.
        content: Of a file.
    """

    name: str
    kind: str
    size_bytes: int = 0
    executable: bool = False
    mtime: int | None = None
    target: str = ""
    content: IO[bytes] | None = None


class _Unpacking:
    """An archive on its way to a folder."""

    def __init__(self, archive: Path, root: Path, strip_components: int, max_bytes: int) -> None:
        self._archive = archive
        self._root = root
        self._strip = strip_components
        self._left_bytes = max_bytes
        self._max_bytes = max_bytes
        self._top: _Parts | None = None
        self._made: dict[_Parts, str] = {(): "folder"}
        self._links: dict[_Parts, str] = {}
        self._names: dict[_Parts, str] = {}
        root.mkdir()

    def refuse(self, name: str, why: str) -> DownloadError:
        return _refused(self._archive, name, why)

    def take(self, member: _Member) -> None:
        if len(self._names) >= MAX_MEMBERS:
            raise self.refuse(member.name, f"comes after {MAX_MEMBERS:,} others, which is the limit")
        if member.kind not in {"file", "folder", "link", "hardlink"}:
            raise self.refuse(member.name, f"is {member.kind}")
        parts = self._place(member.name, member.kind)
        if not parts:
            return
        for depth in range(1, len(parts)):
            self._claim(parts[:depth], "folder", member.name)
        self._claim(parts, member.kind, member.name)
        path = self._root.joinpath(*parts)
        if member.kind == "folder":
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif member.kind == "link":
            self._links[parts] = member.target
        elif member.kind == "hardlink":
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._copy_hardlink(member, path)
        else:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._write(member, path)

    def finish(self) -> None:
        if len(self._made) == 1:
            raise DownloadError(f"{self._archive.name} holds no files.")
        for parts, target in self._links.items():
            self._follow(parts, self._names[parts])
            path = self._root.joinpath(*parts)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.symlink_to(target)

    def _place(self, name: str, kind: str) -> _Parts:
        """Where a member goes, as names below the folder; empty for the leading folders themselves."""
        if name.startswith("/"):
            raise self.refuse(name, "has an absolute path")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refuse(name, "leads out of the folder with '..'")
        if "\0" in name:
            raise self.refuse(name, "has a NUL in its name")
        if not parts and kind == "folder":
            return ()  # "./"
        top = parts[: self._strip]
        if len(parts) < self._strip + (kind != "folder"):
            raise self.refuse(name, f"does not lie in {self._strip} leading folder(s), which are left away")
        if self._top is None:
            self._top = top
        elif top != self._top:
            raise self.refuse(name, f"lies outside the leading folder {'/'.join(self._top)!r}")
        return parts[self._strip :]

    def _claim(self, parts: _Parts, kind: str, name: str) -> None:
        there = self._made.get(parts)
        if there == kind == "folder":
            return
        if there == "link":
            raise self.refuse(name, f"lies under the link {self._names[parts]!r}, or is there twice")
        if there is not None:
            raise self.refuse(name, "is there twice, or is a file and a folder")
        self._made[parts] = kind
        self._names[parts] = name

    def _write(self, member: _Member, path: Path) -> None:
        self._spend(member, member.size_bytes)
        if member.content is None:
            raise self.refuse(member.name, "has no content")
        with path.open("xb") as file:
            # Never more than was said: a damaged or hostile archive may hold more.
            left = member.size_bytes
            while left and (chunk := member.content.read(min(left, 1 << 20))):
                file.write(chunk)
                left -= len(chunk)
        if left:
            raise self.refuse(member.name, "ends too early: the archive is damaged")
        path.chmod(0o755 if member.executable else 0o644)
        if member.mtime is not None:
            os.utime(path, (member.mtime, member.mtime))

    def _copy_hardlink(self, member: _Member, path: Path) -> None:
        original = self._hardlinked(member.target)
        if original is None:
            raise self.refuse(member.name, f"is a hard link to {member.target!r}, which is no file before it")
        self._spend(member, original.stat().st_size)
        shutil.copy2(original, path)

    def _hardlinked(self, target: str) -> Path | None:
        """The file that came before under that name; None where there is none, inside the folder or out."""
        try:
            parts = self._place(target, "file")
        except DownloadError:
            return None
        return self._root.joinpath(*parts) if self._made.get(parts) in {"file", "hardlink"} else None

    def _spend(self, member: _Member, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise self.refuse(
                member.name, f"makes it more than {self._max_bytes:,} bytes, which is the limit"
            )

    def _follow(self, link: _Parts, name: str) -> None:
        """Walk a link as the kernel would, through other links; refuse where it leaves the folder."""
        target = self._links[link]
        at = list(link[:-1])
        ahead = [target]
        followed = 0
        while ahead:
            path = ahead.pop()
            if path.startswith("/"):
                raise self.refuse(name, f"is a link to the absolute path {path!r}")
            first, _, rest = path.partition("/")
            if rest:
                ahead.append(rest.lstrip("/"))
            if first == "..":
                if not at:
                    raise self.refuse(name, f"is a link out of the folder, to {target!r}")
                at.pop()
            elif first not in ("", "."):
                at.append(first)
                if (next_target := self._links.get(tuple(at))) is not None:
                    followed += 1
                    if followed > _MOST_LINKS_IN_A_ROW:
                        raise self.refuse(name, "is a link that goes round in circles")
                    at.pop()
                    ahead.append(next_target)


def _refused(archive: Path, name: str, why: str) -> DownloadError:
    return DownloadError(f"{archive.name} is not unpacked: its member {name!r} {why}.")


def _members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(4)
    if start in {b"PK\x03\x04", b"PK\x05\x06"}:  # a local file header, or an empty archive's end
        return _zip_members(archive)
    if not tarfile.is_tarfile(archive):
        raise DownloadError(
            f"{archive} is no archive, or a damaged one.",
            "It must be a .tar.gz, .tar.xz, .tar.bz2 or .zip file.",
        )
    return _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*") as tar:
        for info in tar:
            yield _Member(
                name=info.name,
                kind=_tar_kind(info),
                size_bytes=info.size,
                executable=bool(info.mode & stat.S_IXUSR),
                mtime=min(max(0, int(info.mtime)), _LATEST_MTIME),
                target=info.linkname,
                content=tar.extractfile(info) if info.isreg() else None,
            )


def _tar_kind(info: tarfile.TarInfo) -> str:
    kinds = (
        (info.isreg(), "file"),
        (info.isdir(), "folder"),
        (info.issym(), "link"),
        (info.islnk(), "hardlink"),
        (info.isfifo(), "a named pipe"),
        (info.isdev(), "a device"),
    )
    return next((kind for fits, kind in kinds if fits), f"of the unknown type {info.type!r}")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "is encrypted")
            mode = info.external_attr >> 16  # 0 where no Unix made it
            kind = _zip_kind(info, mode)
            target = ""
            if kind == "link":
                if info.file_size > 4096:  # PATH_MAX
                    raise _refused(archive, info.filename, "is a link whose target is too long")
                target = os.fsdecode(file.read(info))
            with file.open(info) as content:
                yield _Member(
                    name=info.filename,
                    kind=kind,
                    size_bytes=info.file_size,
                    executable=bool(mode & stat.S_IXUSR),
                    target=target,
                    content=content,
                )


def _zip_kind(info: zipfile.ZipInfo, mode: int) -> str:
    kind = stat.S_IFMT(mode)
    if info.is_dir() or kind == stat.S_IFDIR:
        return "folder"
    if kind == stat.S_IFLNK:
        return "link"
    return "file" if kind in (0, stat.S_IFREG) else f"of the unknown type {kind:o}"


@contextmanager
def _complaints(archive: Path) -> Iterator[None]:
    """Say what the libraries and the kernel complain of as one of this project's errors."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DownloadError(
            f"{archive} can't be unpacked: {error or type(error).__name__}.",
            "It is damaged: get it again.",
        ) from error
    except (OSError, NotImplementedError, ValueError, OverflowError, RecursionError) as error:
        raise DownloadError(f"{archive} can't be unpacked: {error}.") from error
