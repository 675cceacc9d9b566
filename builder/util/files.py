"""Writes a file or folder beside its place, then moves it there: it appears whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.util.limits import STALE_SECONDS

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a path to make a file, folder or link at; when the block ends, it replaces what is at `path`.

    The yielded path has the same name, in a new hidden folder beside `path`. That folder is removed in
    any case, so after an error nothing is left and `path` is as it was. Folders above are made. What a
    killed process left beside `path` is removed, once it is too old to be one that still runs.

    Args:
        path: Where the file, folder or link belongs.

    Raises:
        OSError: It can't be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, ".*.part")
    prefix = f".{path.name[:100]}."
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".part", dir=path.parent) as scratch:
        new, old = Path(scratch, path.name), Path(scratch, "old")
        yield new
        if path.is_symlink() or not path.is_dir():
            new.replace(path)
            return
        # A folder can't be replaced in one step, so the old one steps aside, and back after an error.
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise


def write(path: Path, content: str | bytes, *, executable: bool = False) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file; an older one is replaced.
        content: Its bytes, or its text, which becomes UTF-8.
        executable: Whether it may be executed.

    Raises:
        OSError: It can't be written there.
    """
    with beside(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        if executable:
            new.chmod(0o755)


@contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold a lock while the block runs: of all processes that ask for it, one at a time has it.

    Args:
        path: The lock's file, which is there while a process has the lock. Folders above are made.
        busy: Called if another process has the lock. Once it returns, the lock is waited for.

    Raises:
        OSError: The file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had it may have removed the file since it was opened: then it locks nobody out.
            if not _is_open_file(path, lock.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def remove_stale(folder: Path, pattern: str) -> None:
    """Remove what matches in a folder and was last written so long ago that nobody works on it any more."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
