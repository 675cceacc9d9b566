"""Makes a digest of all that decides what a build's wheels hold: if it is the same, they are up to date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from builder.finish.provenance import PatchFile
from builder.source.obtain import Source
from builder.target.options import BuildOptions
from builder.target.project import Project
from builder.target.selection import Selection
from builder.target.targets import Target
from builder.target.upstream import Release
from builder.util.digest import file_sha256
from builder.util.paths import ROOT

BUILDER = ROOT / "builder"
# The steps after a finished wheel, the commands, and what only ends a build: no change of theirs changes a
# wheel. All else counts.
_AFTER_THE_WHEEL = {"smoketest", "check", "publish", "__main__.py", "preflight.py", "reproduce.py"}
# Code, the project's name and address, and the pins of the build's tools.
_COUNTED_SUFFIXES = {".py", ".toml", ".txt"}


def make_fingerprint(
    *,
    target: Target,
    selection: Selection,
    options: BuildOptions,
    release: Release,
    source: Source | None,
    patches: Sequence[PatchFile],
    project: Project,
    cuda_version: str,
    host_compiler: str,
) -> str:
    """Return the digest of a build's inputs.

    Jobs, caches and places are not among them: they change how long a build takes, not its result. Neither
    is the project's revision, or each commit would make all wheels stale.

    Args:
        target: What is built.
        selection: For which architectures.
        options: What was asked for.
        release: The pinned upstream release.
        source: What is built, where it was named with --source. Wherever the release comes from, it is the
            same.
        patches: The files of the patch series; none for an unpatched build.
        project: This project, which the wheels name.
        cuda_version: The CUDA compiler's.
        host_compiler: The digest of the g++.
    """
    parts = {
        "target": repr(target),
        "architectures": [str(architecture) for architecture in selection.architectures],
        "release": repr(release),
        "source": [source.location, source.sha256, source.commit] if source and not source.verified else [],
        "patches": [(patch.name, patch.sha256) for patch in patches],
        "compilers": [str(options.cuda_home), cuda_version, host_compiler],
        "torch_index": options.torch_index,
        "project": [project.name, project.url],
        "code": code_digests(BUILDER),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digests(builder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the builder that can change a wheel, by its path.

    Args:
        builder: The folder of the package `builder`.
    """
    paths = sorted(path.relative_to(builder) for path in builder.rglob("*") if path.is_file())
    return {
        path.as_posix(): file_sha256(builder / path)
        for path in paths
        if path.suffix in _COUNTED_SUFFIXES and path.parts[0] not in _AFTER_THE_WHEEL
    }
