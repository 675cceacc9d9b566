"""Keeps the wheelhouse: finished wheels, each with its JSON record beside it.

A wheel and its record are written beside their places and then moved there, the record last. A wheel counts
only with a record that fits it.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from builder.util import files
from builder.util.digest import file_sha256
from builder.util.errors import UsageError


def record_path(wheel: Path) -> Path:
    """Return the path of a wheel's record: `<wheel file name>.json` beside it."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> dict[str, Any] | None:
    """Return a wheel's record; None if there is none that can be read."""
    try:
        record = json.loads(record_path(wheel).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def publish(wheels: list[tuple[Path, dict[str, Any]]], wheelhouse: Path) -> list[Path]:
    """Put finished wheels and their records into the wheelhouse, all or none; return the wheels' new paths.

    Args:
        wheels: Wheels and their records.
        wheelhouse: The folder; made if missing.

    Raises:
        UsageError: The wheelhouse can't be written.
    """
    published = [wheelhouse / wheel.name for wheel, _ in wheels]
    try:
        # What is entered last is moved into place first: the wheels before their records.
        with ExitStack() as stack:
            for path, (_, record) in zip(published, wheels, strict=True):
                staged = stack.enter_context(files.beside(record_path(path)))
                staged.write_text(json.dumps(record, indent=2) + "\n")
            for path, (wheel, _) in zip(published, wheels, strict=True):
                shutil.copyfile(wheel, stack.enter_context(files.beside(path)))
    except OSError as error:
        raise UsageError(
            f"The wheelhouse {wheelhouse} can't be written: {error}.",
            "Choose another one with --wheelhouse DIR.",
        ) from error
    return published


def up_to_date(wheelhouse: Path, fingerprint: str) -> list[Path]:
    """Return the wheels of an earlier build with the same inputs.

    Args:
        wheelhouse: The folder.
        fingerprint: Digest of all that goes into the build.

    Returns:
        Their paths; empty if one is missing, or its SHA-256 is not that of its record.
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


def locked(folder: Path) -> AbstractContextManager[None]:
    """Return a lock on a folder, to hold in a `with` statement: one build at a time works in it.

    Raises:
        UsageError: Another process holds it.
    """

    def busy() -> None:
        raise UsageError(f"Another build is running in {folder}.", "Wait for it, or stop it and run again.")

    return files.locked(folder / ".lock", busy)
