"""Unpacks an archive from outside without trusting its member names.

The members go through `tarfile`'s `data` filter (PEP 706), after rules of this module's own: no member may
be there twice, lie under a link, or lead out of the folder, and what comes out is limited. A member that
breaks a rule refuses the whole archive.

Whether an archive is whole is decided here too, whoever sent it. It is first rewritten as a plain tar file:
a compressed one is read to its end, which checks its checksum, and so is each member of a zip file. Then the
tar file must end as POSIX says (pax, "ustar Interchange Format"), in zeros: `tarfile` takes the first header
that it can't read for the end.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.util import limits
from builder.util.errors import DownloadError
from builder.util.files import beside

# Older Pythons have no such filter, or one that fails over links.
if TYPE_CHECKING or sys.version_info >= (3, 11, 5):
    import tarfile
else:
    from backports import tarfile

_LATEST_MTIME = 1 << 33  # all file systems can hold it
_LONGEST_LINK = 4096  # PATH_MAX
_Compressed = type[gzip.GzipFile] | type[bz2.BZ2File] | type[lzma.LZMAFile]
_COMPRESSED: dict[bytes, _Compressed] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}
_END_BYTES = 2 * tarfile.BLOCKSIZE
_ZIP_STARTS = {b"PK\x03\x04", b"PK\x05\x06"}  # a local file header, or an empty archive's end
_TAR_TYPES = {0: tarfile.REGTYPE, stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


def unpack(
    archive: Path,
    into: Path,
    strip_components: int = 1,
    max_bytes: int = limits.UNPACKED_ARCHIVE_BYTES,
) -> None:
    """Unpack a `.tar.*` or `.zip` file.

    Files get mode 644, or 755 where their owner may execute them; hard links become copies.

    Args:
        archive: The file; its bytes tell what it is, not its name.
        into: The folder to make; it must not be there, or be empty. It appears whole or not at all.
        strip_components: Leading folders to omit; all members must share them.
        max_bytes: The most that may come out.

    Raises:
        DownloadError: The archive is damaged or of no known kind, or a member breaks a rule.
    """
    try:
        if into.is_dir() and any(into.iterdir()):
            raise FileExistsError(f"{into} is not empty")
        with beside(into) as root, _opened(archive, root.with_name("plain.tar"), max_bytes) as tar:
            root.mkdir()
            members = _Members(archive.name, root, strip_components, max_bytes)
            tar.extractall(root, filter=members.check)  # noqa: S202 - with the filter that it asks for
            members.finish()
            _check_end(tar)
    except _DAMAGE as error:
        raise DownloadError(
            f"{archive} can't be unpacked: {error or type(error).__name__}.",
            "It is damaged: download it again.",
        ) from error
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise DownloadError(f"{archive} can't be unpacked: {error}.") from error


def git_commit(archive: Path) -> str:
    """Return the commit that `git archive` wrote into a tar file, as forges do; empty without one."""
    try:
        with tarfile.open(archive) as tar:
            comment = tar.pax_headers.get("comment", "")
    except (*_DAMAGE, OSError):
        return ""
    return comment if re.fullmatch(r"[0-9a-f]{40}", comment) else ""


class _Members:
    """The members of an archive, checked one after the other."""

    def __init__(self, archive: str, root: Path, strip_components: int, max_bytes: int) -> None:
        self._archive = archive
        self._root = root
        self._strip = strip_components
        self._max_bytes = self._left_bytes = max_bytes
        self._top: tuple[str, ...] | None = None
        self._kinds: dict[tuple[str, ...], str] = {}
        self._links: dict[Path, str] = {}
        self._hard_links: list[Path] = []

    def check(self, member: tarfile.TarInfo, root: str) -> tarfile.TarInfo | None:
        """Return a member as it is to be extracted, None for a leading folder: a filter for `tarfile`."""
        if len(self._kinds) >= limits.ARCHIVE_MEMBERS:
            raise self._refused(member.name, f"is one more than {limits.ARCHIVE_MEMBERS:,}, the limit")
        parts = self._place(member.name, folder=member.isdir())
        if not parts:
            return None
        kind = "folder" if member.isdir() else "link" if member.issym() else "file"
        for depth in range(1, len(parts)):
            self._claim(parts[:depth], "folder", member.name)
        self._claim(parts, kind, member.name)
        size_bytes, linkname = member.size, member.linkname
        if member.issym():
            self._links[self._root.joinpath(*parts)] = member.name
        elif member.islnk():
            above, linked = _names(linkname)[: self._strip], _names(linkname)[self._strip :]
            if above != self._top or self._kinds.get(linked) != "file" or linked == parts:
                raise self._refused(member.name, f"is a hard link to {linkname!r}, not a file before it")
            self._hard_links.append(self._root.joinpath(*parts))
            size_bytes, linkname = self._root.joinpath(*linked).stat().st_size, "/".join(linked)
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise self._refused(member.name, f"makes it more than {self._max_bytes:,} bytes, the limit")
        changed = member.replace(
            name="/".join(parts),
            linkname=linkname,
            mode=0o755 if member.mode & stat.S_IXUSR else 0o644,
            mtime=min(max(0, int(member.mtime)), _LATEST_MTIME),
            deep=False,
        )
        try:
            return tarfile.data_filter(changed, root)
        except tarfile.SpecialFileError:
            raise self._refused(member.name, "is not a file, folder or link") from None
        except tarfile.FilterError:
            raise self._refused(member.name, f"is a link out of the folder, to {linkname!r}") from None

    def finish(self) -> None:
        """Check where all links lead in the end, and make hard links files of their own."""
        if not self._kinds:
            raise DownloadError(f"{self._archive} holds no files.")
        for path, name in self._links.items():
            try:
                path.stat()
            except FileNotFoundError:
                pass  # a link may lead to nothing
            except OSError as error:
                raise self._refused(name, f"is a link that can't be followed: {error.strerror}") from None
            if not path.resolve().is_relative_to(self._root.resolve()):
                raise self._refused(name, "is a link out of the folder")
        for path in self._hard_links:
            with beside(path) as own:
                shutil.copy2(path, own)

    def _refused(self, name: str, why: str) -> DownloadError:
        return DownloadError(f"{self._archive} is not unpacked: its member {name!r} {why}.")

    def _place(self, name: str, *, folder: bool) -> tuple[str, ...]:
        """Return where a member goes, as names below the folder; nothing for the leading folders."""
        parts = _names(name)
        if name.startswith("/"):
            raise self._refused(name, "has an absolute path")
        if ".." in parts:
            raise self._refused(name, "leads out of the folder with '..'")
        if not parts and folder:
            return ()  # "./"
        top = parts[: self._strip]
        if len(parts) < self._strip + (not folder):
            raise self._refused(name, f"does not lie in {self._strip} leading folder(s)")
        if self._top is None:
            self._top = top
        elif top != self._top:
            raise self._refused(name, f"lies outside the leading folder {'/'.join(self._top)!r}")
        return parts[self._strip :]

    def _claim(self, parts: tuple[str, ...], kind: str, name: str) -> None:
        there = self._kinds.setdefault(parts, "")
        if there == "link":
            raise self._refused(name, "is there twice, or lies under a link")
        if there and (there != "folder" or kind != "folder"):
            raise self._refused(name, "is there twice, or is a file and a folder")
        self._kinds[parts] = kind


def _names(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


@contextmanager
def _opened(archive: Path, scratch: Path, max_bytes: int) -> Iterator[tarfile.TarFile]:
    """Open an archive as a plain tar file, which is written to `scratch` if it is not one."""
    with archive.open("rb") as file:
        start = file.read(4)
    most = min(max_bytes, limits.UNPACKED_FLOOR_BYTES + limits.UNPACKED_RATIO * archive.stat().st_size)
    plain = scratch
    if start in _ZIP_STARTS:
        _rewrite_zip(archive, scratch, most)
    elif start[:2] in _COMPRESSED:
        with _COMPRESSED[start[:2]](archive) as source, scratch.open("wb") as target:
            while chunk := source.read(limits.CHUNK_BYTES):
                target.write(chunk)
                if target.tell() > most + limits.UNPACKED_FLOOR_BYTES:
                    raise _too_large(archive, most)
    else:
        plain = archive
    if not tarfile.is_tarfile(plain):
        raise DownloadError(
            f"{archive} is not an archive, or a damaged one.",
            "It must be a .tar.gz, .tar.xz, .tar.bz2 or .zip file.",
        )
    with tarfile.open(plain, "r:", errorlevel=2) as tar:
        yield tar


def _check_end(tar: tarfile.TarFile) -> None:
    """Check that what was read of an archive is all of it."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    left_bytes = 0
    while chunk := tar.fileobj.read(limits.CHUNK_BYTES):
        left_bytes += len(chunk)
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"no header can be read at byte {tar.offset:,}, where it does not end")
    if left_bytes < _END_BYTES:
        raise tarfile.ReadError("it has no end")


def _too_large(archive: Path, most: int) -> DownloadError:
    return DownloadError(
        f"{archive.name} is not unpacked: it makes more than {most:,} bytes, the limit for its size."
    )


def _rewrite_zip(archive: Path, into: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(archive) as file, tarfile.open(into, "w") as tar:
        members = file.infolist()
        if sum(member.file_size for member in members) > max_bytes:
            raise _too_large(archive, max_bytes)
        for member in members:
            mode = member.external_attr >> 16  # 0 where no Unix made it
            info = tarfile.TarInfo(member.filename)
            info.mode, info.mtime = mode, int(time.time())  # a zip file's times have no zone
            if member.is_dir() or stat.S_ISDIR(mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info.type = _TAR_TYPES.get(stat.S_IFMT(mode), tarfile.FIFOTYPE)
            with file.open(member) as content:
                if info.issym():
                    info.linkname = os.fsdecode(content.read(_LONGEST_LINK + 1))
                else:
                    info.size = member.file_size
                tar.addfile(info, content)
