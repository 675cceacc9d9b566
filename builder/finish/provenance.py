"""All that a wheel says of how it was made, and in two lines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from builder.source.obtain import Source
from builder.source.series import Series, files_of
from builder.target.architectures import Architecture, join
from builder.target.project import Project
from builder.target.targets import Target
from builder.target.upstream import FILE_NAME, SUMS_NAME
from builder.toolchain.materials import Material

# What the two lines start with, by which an older pair is found again.
OPENING = "> **About this wheel.**"
# What the first of them says of the source.
VERIFIED, UNVERIFIED = "verified by SHA-256", "from an unverified source"


@dataclass(frozen=True)
class PatchFile:
    """One file of the patch series.

    Attributes:
        name: `0001-build.toml`, or `files/build_extensions.py` that it adds.
        content: Its bytes.
        summary: What an applied entry of the series changed; empty for all other files.
    """

    name: str
    content: bytes
    summary: str = ""

    @property
    def sha256(self) -> str:
        """Digest of its bytes."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Provenance:
    """All that a wheel says of how it was made.

    Attributes:
        target: What was built.
        architectures: What it was built for.
        source: What was compiled.
        patches: Files of the patch series; none for an unpatched build.
        tools: The compiler's packages and archives, and the other tools.
        project: This project.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
    """

    target: Target
    architectures: tuple[Architecture, ...]
    source: Source
    patches: tuple[PatchFile, ...]
    tools: tuple[Material, ...]
    project: Project
    epoch: int


def read_patch_files(folder: Path, series: Series) -> tuple[PatchFile, ...]:
    """Return every file of a release and its patches, sorted by name; what else lies in the folder is none.

    Args:
        folder: The release's folder, such as `patches/v2.2.0`.
        series: What `load_series` returned for it.
    """
    names = sorted({FILE_NAME, SUMS_NAME, *files_of(series)})
    return tuple(PatchFile(name, (folder / name).read_bytes()) for name in names)


def describe(provenance: Provenance, *, runtime: bool = False) -> tuple[str, str]:
    """Return the two lines of METADATA that say what a wheel is and who made it.

    Args:
        provenance: How it was made.
        runtime: Whether it bundles the CUDA runtime.
    """
    source, target = provenance.source, provenance.target
    count = sum(1 for patch in provenance.patches if patch.summary)
    patches = count_of_patches(count)
    if source.verified:
        what = f"release {source.tag or source.version}, {VERIFIED}, {patches}"
    else:
        facts = [f"{source.kind} {source.location}"]
        facts += [f"commit {source.commit}"] if source.commit else []
        facts += [f"sha256 {source.sha256}"] if source.sha256 else []
        what = f"{UNVERIFIED}: {', '.join(facts)}; {patches}"
    more = " It brings the CUDA runtime along." if runtime else ""
    torch = f"torch {target.torch_minimum} and newer" if target.stable else f"torch {target.torch_series}"
    first = (
        f"{OPENING} An unofficial build of SageAttention {source.version} ({what}) for CUDA {target.cuda}, "
        f"{torch}, and compute capabilities {join(provenance.architectures)}.{more}"
    )
    project = provenance.project
    maker = f"[{project.name}]({project.url})" if project.url else project.name
    revision = f" at {project.revision}" if project.revision else ""
    second = f"> Made by {maker}{revision}; all that went in: `sboms` and `patches` in its `.dist-info`."
    return first, second


def count_of_patches(count: int) -> str:
    """Return how a wheel's description says how many patches were applied: `2 patches`, `no patches`."""
    return f"{count or 'no'} patch{'' if count == 1 else 'es'}"
