"""Files and folders that appear whole or not at all, locks, and digests."""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a path to make a file, folder or link at; when the block ends, it replaces what is at `path`.

    The yielded path has the same name, in a new hidden folder beside `path`, which is removed in any case.
    After an error `path` is as it was; an OSError that names no file or two, as on a full disk, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:100]}."
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".part", dir=path.parent) as scratch:
        new, old = Path(scratch, path.name), Path(scratch, "old")
        try:
            yield new
        except OSError as error:
            if error.errno and (error.filename2 or not error.filename):  # a copy names its source first
                error.filename = str(path)
            raise
        if path.is_symlink() or not path.is_dir():
            new.replace(path)
            return
        path.rename(old)  # a folder can't be replaced in one step
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; text becomes UTF-8."""
    with beside(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold a lock while the block runs: of all processes that ask for it, one at a time has it.

    Args:
        path: The lock's file, which stays.
        busy: Called if another process has the lock. Once it returns, the lock is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
