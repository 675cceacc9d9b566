"""Keeps the wheelhouse: finished wheels, each with its JSON record beside it.

The wheels of a build and their records are written into a hidden folder of the wheelhouse. Renaming that one
commits them: from then on they are moved to their places, the records last, by the next process if this one
is killed. A wheel counts only with a record that fits it.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from builder.util import files
from builder.util.answers import read_json
from builder.util.digest import file_sha256
from builder.util.errors import UsageError
from builder.util.log import say

_STAGED, _COMMITTED, _LOCK = ".staged", ".committed", ".lock"

# What this project reads of a record again, and as what: `*` stands for any other key.
_SHAPE: dict[str, Any] = {
    "fingerprint": str,
    "wheels_of_build": int,
    "wheel": {"sha256": str},
    "cost": {"compiler_cache": {"hits": int}, "files": {"*": {"seconds": (int, float)}}},
}


def record_path(wheel: Path) -> Path:
    """Return the path of a wheel's record: `<wheel file name>.json` beside it."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> dict[str, Any] | None:
    """Return a wheel's record; None if there is none that a build can have written."""
    try:
        record = read_json(record_path(wheel))
    except (OSError, ValueError):
        return None
    return record if _fits(record, _SHAPE) else None


def _fits(value: object, shape: Any) -> bool:
    if not isinstance(shape, dict):
        return isinstance(value, shape) and (shape is object or not isinstance(value, bool))
    return isinstance(value, dict) and all(
        _fits(part, shape.get(key, shape.get("*", object))) for key, part in value.items()
    )


def publish(wheels: list[tuple[Path, dict[str, Any]]], wheelhouse: Path) -> list[Path]:
    """Put finished wheels and their records into the wheelhouse, all or none; return the wheels' new paths.

    Args:
        wheels: Wheels and their records.
        wheelhouse: The folder; made if missing.

    Raises:
        UsageError: The wheelhouse can't be written.
    """
    published = [wheelhouse / wheel.name for wheel, _ in wheels]
    staged = wheelhouse / _STAGED
    try:
        wheelhouse.mkdir(parents=True, exist_ok=True)
        with files.locked(wheelhouse / _LOCK, lambda: say("  waiting for another build")):
            _complete(wheelhouse)
            shutil.rmtree(staged, ignore_errors=True)
            try:
                staged.mkdir()
                for wheel, record in wheels:
                    shutil.copyfile(wheel, staged / wheel.name)
                    record_path(staged / wheel.name).write_text(json.dumps(record, indent=2) + "\n")
                for path in published:
                    if path.is_dir() or record_path(path).is_dir():
                        raise IsADirectoryError(21, "a folder has the name of a wheel", str(path))
                with _uninterrupted():
                    staged.rename(wheelhouse / _COMMITTED)
                    _complete(wheelhouse)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"The wheelhouse {wheelhouse} can't be written: {error}.",
            "Choose another one with --wheelhouse DIR.",
        ) from error
    return published


def wheels_in(wheelhouse: Path) -> list[Path]:
    """Return the wheels of a wheelhouse, sorted, with all that a killed process had begun to publish."""
    with suppress(OSError):  # it may be there to read only
        if (wheelhouse / _COMMITTED).is_dir():
            with files.locked(wheelhouse / _LOCK, lambda: say("  waiting for another build")):
                _complete(wheelhouse)
    return sorted(wheelhouse.glob("*.whl"))


def _complete(wheelhouse: Path) -> None:
    committed = wheelhouse / _COMMITTED
    if committed.is_dir():
        for path in sorted(committed.iterdir(), key=lambda path: path.suffix == ".json"):
            path.replace(wheelhouse / path.name)
        committed.rmdir()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the block has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def up_to_date(wheelhouse: Path, fingerprint: str, *, shared: bool = True) -> list[Path]:
    """Return the wheels of an earlier build with the same inputs.

    Args:
        wheelhouse: The folder.
        fingerprint: Digest of all that goes into the build.
        shared: Whether it may have taken objects from a remote compiler cache.

    Returns:
        Their paths; empty if one is missing, or its SHA-256 is not that of its record.
    """
    found: list[Path] = []
    expected = 0
    for wheel in wheels_in(wheelhouse):
        record = read_record(wheel)
        if record is None or record.get("fingerprint") != fingerprint:
            continue
        if not shared and record.get("cost", {}).get("compiler_cache", {}).get("remote"):
            continue
        expected = max(expected, record.get("wheels_of_build", 1))
        with suppress(OSError):
            if wheel.is_file() and file_sha256(wheel) == record.get("wheel", {}).get("sha256"):
                found.append(wheel)
    return found if found and len(found) == expected else []


def locked(folder: Path) -> AbstractContextManager[None]:
    """Return a lock on a folder, to hold in a `with` statement: one build at a time works in it.

    Raises:
        UsageError: Another process holds it.
    """

    def busy() -> None:
        raise UsageError(f"Another build is running in {folder}.", "Wait for it, or stop it and run again.")

    return files.locked(folder / ".lock", busy)
