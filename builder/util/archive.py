"""Unpacks archives without their top folder."""

from __future__ import annotations

import lzma
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from builder.util.errors import DownloadError
from builder.util.files import beside

# Older Pythons have no such filter, or one that fails over links.
if TYPE_CHECKING or sys.version_info >= (3, 11, 5):
    import tarfile
else:
    from backports import tarfile

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


def unpack(archive: Path, into: Path) -> None:
    """Unpack a `.tar.*` or `.zip` file; the folder appears whole or not at all, in place of an older one.

    Raises:
        DownloadError: It is damaged, of another kind, or has not one folder at its top.
    """
    try:
        with beside(into) as new:
            unpacked = new.with_name("unpacked")
            with archive.open("rb") as file:
                zipped = file.read(2) == b"PK"
            if zipped:
                with zipfile.ZipFile(archive) as members:
                    members.extractall(unpacked)  # noqa: S202 - zipfile leaves no folder by itself
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(unpacked, filter="data")
            tops = list(unpacked.iterdir())
            if len(tops) != 1 or not tops[0].is_dir():
                raise DownloadError(f"{archive.name} has {len(tops)} entries at its top, not one folder.")
            tops[0].rename(new)
    except (*_DAMAGE, OSError) as error:
        raise DownloadError(
            f"{archive.name} can't be unpacked: {error or type(error).__name__}.",
            "It must be a .tar.* or .zip file; if it is, it is damaged.",
        ) from error


def git_commit(archive: Path) -> str:
    """Return the commit that `git archive` wrote into a tar file, as forges do; empty without one."""
    try:
        with tarfile.open(archive) as tar:
            comment = tar.pax_headers.get("comment", "")
    except (*_DAMAGE, OSError):
        return ""
    return comment if re.fullmatch(r"[0-9a-f]{40}", comment) else ""
