"""Makes a digest of all that decides what a build's wheels hold: if it is the same, they are up to date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from builder.source.obtain import Source
from builder.target.architectures import Selection
from builder.target.options import BuildOptions
from builder.target.project import Project
from builder.target.targets import Target
from builder.target.upstream import Release
from builder.util.files import ROOT, file_sha256

BUILDER = ROOT / "builder"
# Code that can't affect a wheel's bytes. Everything else is part of the fingerprint.
_NOT_COUNTED = {"smoketest", "check", "publish", "__main__.py", "reproduce.py"}
# Code, the project's name and address, and the pins of the build's tools.
_COUNTED_SUFFIXES = {".py", ".toml", ".txt"}


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
    """Return the digest of a build's inputs.

    Jobs, caches and places are not among them: they change how long a build takes, not its result. Neither
    is the project's revision, or each commit would make all wheels stale.

    Args:
        source: The `--source` tree; None for the pinned release, whichever mirror it came from.
        patches: Name -> content of each file of the patch series.
        cuda_version: The CUDA compiler's.
        host_compiler: The digest of the g++.
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
