"""Keeps the wheelhouse: finished wheels, and beside each the JSON record of its build.

Each file is written beside its place and then moved there, the record after its wheel. Wheels are up to date
only with records that have their digests and the fingerprint of the build's inputs, so what a killed build
left is built again.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from builder.util import files
from builder.util.errors import UsageError
from builder.util.files import file_sha256

# Among the `checks` of a record: the wheel was imported.
IMPORTED = "import"


def record_path(wheel: Path) -> Path:
    """Return the path of a wheel's record: `<wheel file name>.json` beside it."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> dict[str, Any]:
    """Return a wheel's record; empty where there is none that can be read."""
    try:
        record = json.loads(record_path(wheel).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def store(wheels: list[Path], build: dict[str, Any], wheelhouse: Path) -> list[Path]:
    """Put the wheels of a build into the wheelhouse; return their new paths.

    `build` is what their records have in common: the fingerprint, and what no SBOM says, such as the cost.
    """
    stored = []
    for wheel in wheels:
        place = wheelhouse / wheel.name
        with files.beside(place) as new:
            shutil.copyfile(wheel, new)
            record_path(place).unlink(missing_ok=True)  # of an earlier wheel
        own = {"wheels_of_build": len(wheels), "name": wheel.name, "sha256": file_sha256(place)}
        files.write(record_path(place), json.dumps({**build, **own}, indent=2) + "\n")
        stored.append(place)
    return stored


def up_to_date(wheelhouse: Path, fingerprint: str, *, shared: bool = True) -> list[Path]:
    """Return the wheels of an earlier build with the same inputs; none unless all of them are whole.

    `shared` says whether that build may have taken objects from a remote compiler cache.
    """
    wheels: list[Path] = []
    wheels_of_build = 0
    for wheel in sorted(wheelhouse.glob("*.whl")):
        record = read_record(wheel)
        if record.get("fingerprint") != fingerprint or (record.get("cache_remote") and not shared):
            continue
        wheels_of_build = record.get("wheels_of_build", 0)
        if wheel.is_file() and file_sha256(wheel) == record.get("sha256"):
            wheels.append(wheel)
    return wheels if len(wheels) == wheels_of_build else []


def locked(folder: Path) -> AbstractContextManager[None]:
    """Return a lock on a folder, to hold in a `with` statement; UsageError if another process holds it."""

    def busy() -> None:
        raise UsageError(f"Another build is running in {folder}.", "Wait for it, or stop it and run again.")

    return files.locked(folder / ".lock", busy)
