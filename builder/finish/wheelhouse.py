"""The wheelhouse: finished wheels, each with its JSON record beside it.

Only whole wheels are ever seen here: a wheel and its record are written under temporary names on the same
file system and renamed, the record last, and a wheel counts as there only with a record that fits it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.util.digest import file_sha256
from builder.util.errors import UsageError


def record_path(wheel: Path) -> Path:
    """Where a wheel's record lies: `<wheel file name>.json` beside it."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> dict[str, Any] | None:
    """A wheel's record, or None where there is none that can be read."""
    try:
        record = json.loads(record_path(wheel).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def publish(wheels: list[tuple[Path, dict[str, Any]]], wheelhouse: Path) -> list[Path]:
    """Put finished wheels and their records into the wheelhouse, all or none.

    Every byte is written under a temporary name first; then all are renamed into place.

    Args:
        wheels: Wheels and their records.
        wheelhouse: The folder; made if missing.

    Returns:
        The wheels' new paths.

    Raises:
        UsageError: The wheelhouse can't be written to.
    """
    moves: list[tuple[Path, Path]] = []
    try:
        wheelhouse.mkdir(parents=True, exist_ok=True)
        for wheel, record in wheels:
            final = wheelhouse / wheel.name
            staged = wheelhouse / f".{wheel.name}.{os.getpid()}.part"
            moves.append((staged, final))
            shutil.copyfile(wheel, staged)
            staged_record = record_path(staged)
            moves.append((staged_record, record_path(final)))
            staged_record.write_text(json.dumps(record, indent=2) + "\n")
        for staged, final in moves:
            staged.replace(final)
    except OSError as error:
        for staged, _ in moves:
            staged.unlink(missing_ok=True)
        raise UsageError(
            f"The wheelhouse {wheelhouse} can't be written: {error}.",
            "Give another one with --wheelhouse DIR.",
        ) from error
    return [final for _, final in moves[::2]]


def up_to_date(wheelhouse: Path, fingerprint: str) -> list[Path]:
    """The wheels of an earlier build with the same inputs, if they are still whole.

    Args:
        wheelhouse: The folder.
        fingerprint: Digest of all that goes into the build.

    Returns:
        Their paths; empty where one is missing or its bytes are not those of its record.
    """
    found: list[Path] = []
    expected = 0
    for record_file in sorted(wheelhouse.glob("*.whl.json")):
        wheel = record_file.with_name(record_file.name.removesuffix(".json"))
        record = read_record(wheel)
        if record is None or record.get("fingerprint") != fingerprint:
            continue
        expected = max(expected, int(record.get("wheels_of_build", 1)))
        if wheel.exists() and file_sha256(wheel) == record.get("wheel", {}).get("sha256"):
            found.append(wheel)
    return found if found and len(found) == expected else []


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one build; a second build of the same target at the same time is refused.

    Raises:
        UsageError: Another process holds it.
    """
    import fcntl  # noqa: PLC0415 - POSIX only, as is the build

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another build is at work in {folder}.", "Wait for it, or stop it and run again."
            ) from error
        yield
