"""SHA-256 digests of files and of trees."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def tree_sha256(root: Path) -> str:
    """One SHA-256 for all files of a folder: their names, bytes, and whether they are executable.

    It is the digest of what `sha256sum` would print for the files, with `x` for an executable one in
    the column that `sha256sum` has a space in, sorted by name. Empty folders, times and other modes
    don't count. The tree must hold no symbolic links that lead out of it.
    """
    files = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for name, path in files:
        mark = "x" if path.stat().st_mode & 0o100 else " "
        digest.update(f"{file_sha256(path)} {mark}{name}\n".encode())
    return digest.hexdigest()
