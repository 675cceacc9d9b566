"""Keeps the wheelhouse: finished wheels, and beside each the JSON record of its build.

Each file is written beside its place and then moved there, the record after its wheel. Wheels are up to date
only with records that have their digests and the fingerprint of the build's inputs, so what a killed build
left is built again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from builder.source.obtain import Source
from builder.target.architectures import Selection
from builder.target.options import BuildOptions
from builder.target.project import Project
from builder.target.targets import Release, Target
from builder.util import files
from builder.util.errors import UsageError
from builder.util.files import ROOT, file_sha256

BUILDER = ROOT / "builder"
# Code that can't affect a wheel's bytes.
_NOT_COUNTED = {"smoketest", "check", "publish", "__main__.py", "reproduce.py"}
# Code, the project's name and address, and the pins of the build's tools.
_COUNTED_SUFFIXES = {".py", ".toml", ".txt"}
# Among the `checks` of a record: the wheel was imported.
IMPORTED = "import"


def record_path(wheel: Path) -> Path:
    """Return the path of a wheel's record: `<wheel file name>.json` beside it."""
    return wheel.with_name(wheel.name + ".json")


def read_record(wheel: Path) -> dict[str, Any]:
    """Return a wheel's record; empty where there is none that can be read."""
    try:
        record = json.loads(record_path(wheel).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def wheels_in(wheelhouse: Path) -> list[Path]:
    """Return the wheels of a wheelhouse, sorted."""
    return sorted(wheelhouse.glob("*.whl"))


def store(wheels: list[Path], build: dict[str, Any], wheelhouse: Path) -> list[Path]:
    """Put the wheels of a build into the wheelhouse; return their new paths.

    `build` is what their records have in common: the fingerprint, and what no SBOM says, such as the cost.
    """
    stored = [wheelhouse / wheel.name for wheel in wheels]
    try:
        for wheel, place in zip(wheels, stored, strict=True):
            with files.beside(place) as new:
                shutil.copyfile(wheel, new)
                record_path(place).unlink(missing_ok=True)  # of an earlier wheel
            own = {"wheels_of_build": len(wheels), "name": wheel.name, "sha256": file_sha256(place)}
            files.write(record_path(place), json.dumps({**build, **own}, indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"The wheelhouse {wheelhouse} can't be written: {error}.",
            "Choose another one with --wheelhouse DIR.",
        ) from error
    return stored


def up_to_date(wheelhouse: Path, fingerprint: str, *, shared: bool = True) -> list[Path]:
    """Return the wheels of an earlier build with the same inputs; none unless all of them are whole.

    `shared` says whether that build may have taken objects from a remote compiler cache.
    """
    wheels: list[Path] = []
    wheels_of_build = 0
    for wheel in wheels_in(wheelhouse):
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


def make_fingerprint(
    *,
    target: Target,
    selection: Selection,
    options: BuildOptions,
    release: Release,
    source: Source | None,
    patches: Mapping[str, bytes],
    project: Project,
    cuda_version: str,
    host_compiler: str,
) -> str:
    """Return the digest of all that decides what a build's wheels hold.

    Jobs, caches and places change how long a build takes, not its result. The project's revision does not
    count either, or each commit would make all wheels stale. The source is that of `--source`, if any.
    """
    parts = {
        "target": repr(target),
        "architectures": [str(architecture) for architecture in selection.architectures],
        "release": repr(release),
        "source": [source.location, source.sha256, source.commit] if source and not source.verified else [],
        "patches": {name: hashlib.sha256(content).hexdigest() for name, content in patches.items()},
        "compilers": [str(options.cuda_home), cuda_version, host_compiler],
        "torch_index": options.torch_index,
        "project": [project.name, project.url],
        "code": code_digests(BUILDER),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digests(builder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the package `builder` that can change a wheel, by its path."""
    paths = sorted(path.relative_to(builder) for path in builder.rglob("*") if path.is_file())
    return {
        path.as_posix(): file_sha256(builder / path)
        for path in paths
        if path.suffix in _COUNTED_SUFFIXES and path.parts[0] not in _NOT_COUNTED
    }
