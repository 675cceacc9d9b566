"""SHA-256 digests of files and of trees."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from builder.util.limits import CHUNK_BYTES


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def tree_sha256(root: Path) -> str:
    """Return one SHA-256 for all files of a folder: their names, bytes, and whether they are executable.

    It is the digest of what `sha256sum` prints for the files, sorted by name, with an `x` for an executable
    one in place of the second space. Empty folders, times and other modes don't count. The tree must have
    no symbolic links that lead out of it.
    """
    files = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for name, path in files:
        mark = "x" if path.stat().st_mode & 0o100 else " "
        digest.update(os.fsencode(f"{file_sha256(path)} {mark}{name}\n"))
    return digest.hexdigest()
