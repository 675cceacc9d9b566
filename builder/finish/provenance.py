"""What went into a wheel, written into the wheel: SBOM, patches, licences, and two lines of METADATA.

Sources: PEP 770 (SBOMs in wheels), PEP 639 (licence expression and files), PEP 566 and the PyPA "Core
metadata specifications" for METADATA.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from packaging.licenses import canonicalize_license_expression

from builder.finish.repair import BundledLibrary
from builder.finish.sbom import make_sbom, without_build_paths
from builder.source.obtain import Source
from builder.target.architectures import Architecture, join
from builder.target.project import Project
from builder.target.targets import Target
from builder.toolchain.materials import Material
from builder.util.errors import RepairError
from builder.wheel.elf import read_elf
from builder.wheel.fatbin import cubin_architectures, read_fatbin
from builder.wheel.rewrite import rewrite
from builder.wheel.wheelfile import Wheel

SBOM_NAME = "sageattention.cdx.json"
AUDITWHEEL_SBOM = "auditwheel.cdx.json"
# How NVIDIA's own packages of the CUDA runtime name its terms.
RUNTIME_LICENSE = "LicenseRef-NVIDIA-Proprietary"
RUNTIME_LICENSE_FILE = "nvidia-cuda-runtime/License.txt"

_METADATA_VERSION = (2, 4)  # the first with License-Expression and License-File
_OPENING = "> **About this wheel.**"
_WRITTEN_ANEW = {
    "License",
    "License-Expression",
    "License-File",
    "Metadata-Version",
    "Description-Content-Type",
}
_ENTRY_NAME = re.compile(r"\d{4}-[a-z0-9-]+\.(?:patch|toml)")
_LICENSE_NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)([.-].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class PatchFile:
    """One file of the patch series: `0001-build.toml`, or `files/build_extensions.py` that it adds."""

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
        architectures: For which the build was asked.
        source: What was compiled.
        patches: Files of the patch series, empty for an unpatched build.
        patch_count: Entries of the series.
        tools: The compiler's packages and archives, and other tools, with versions.
        project: This project.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
    """

    target: Target
    architectures: tuple[Architecture, ...]
    source: Source
    patches: tuple[PatchFile, ...]
    patch_count: int
    tools: tuple[Material, ...]
    project: Project
    epoch: int


def read_patch_files(folder: Path, summaries: dict[str, str] | None = None) -> tuple[PatchFile, ...]:
    """Every file of a release's folder of patches, sorted by name.

    Args:
        folder: Such as `patches/v2.2.0`.
        summaries: Name of an entry -> what it is for.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = [path.relative_to(folder).as_posix() for path in files]
    return tuple(
        PatchFile(name, path.read_bytes(), (summaries or {}).get(name, ""))
        for name, path in zip(names, files, strict=True)
    )


def runtime_license_text(site_packages: Path) -> bytes | None:
    """NVIDIA's terms from the installed package of the CUDA runtime; None where it isn't there."""
    for folder in sorted(site_packages.glob("nvidia_cuda_runtime*.dist-info")):
        for name in ("licenses/License.txt", "License.txt", "licenses/LICENSE", "LICENSE"):
            if (folder / name).is_file():
                return (folder / name).read_bytes()
    return None


def finalize(
    wheel: Path,
    provenance: Provenance,
    out_dir: Path,
    *,
    bundled: Sequence[BundledLibrary] = (),
    runtime_license: bytes | None = None,
) -> Path:
    """Write a built or repaired wheel anew, with its provenance, and with bytes that can be reproduced.

    Args:
        wheel: What the build or auditwheel made; stays as it is.
        provenance: What to say of it.
        out_dir: Where the finished wheel goes.
        bundled: What auditwheel took along.
        runtime_license: NVIDIA's terms; needed where the CUDA runtime is bundled.

    Raises:
        RepairError: The CUDA runtime is bundled and there is no text of its terms.
        WheelError: The wheel can't be read.
    """
    if bundled and runtime_license is None:
        raise RepairError(
            f"The wheel brings {bundled[0].soname} along, and NVIDIA's terms for it were not found.",
            "The package nvidia-cuda-runtime that torch brings has them: is torch installed?",
        )
    with Wheel(wheel) as opened:
        licenses, moved = _licenses(opened)
        if bundled and runtime_license is not None:
            licenses[RUNTIME_LICENSE_FILE] = runtime_license
        expression = license_expression(provenance.source.license, runtime=bool(bundled))
        add = {opened.in_dist_info(f"licenses/{name}"): text for name, text in licenses.items()}
        add |= {opened.in_dist_info(f"patches/{patch.name}"): patch.content for patch in provenance.patches}
        materials = [*_materials(provenance), *_contents(opened, bundled, provenance)]
        add[opened.in_dist_info(f"sboms/{SBOM_NAME}")] = make_sbom(
            _subject(opened, expression, provenance),
            materials,
            made_by=Material(
                "build-tool", provenance.project.name, provenance.project.revision, url=provenance.project.url
            ),
            epoch=provenance.epoch,
        )
        auditwheels_own = opened.in_dist_info(f"sboms/{AUDITWHEEL_SBOM}")
        if auditwheels_own in opened.names:
            add[auditwheels_own] = without_build_paths(opened.read(auditwheels_own))
    about = describe(provenance, bundled)
    return rewrite(
        wheel,
        out_dir,
        add=add,
        remove=[name for name in moved if name not in add],
        edit_metadata=lambda text: edit_metadata(
            text, expression, sorted(licenses), about, provenance.project.url
        ),
        epoch=provenance.epoch,
    )


def license_expression(source: str, *, runtime: bool) -> str:
    """The SPDX expression of a wheel (PEP 639).

    Args:
        source: That of what was compiled.
        runtime: Whether the CUDA runtime is bundled.
    """
    expression = source
    if runtime:
        expression = f"({source})" if " OR " in source else source
        expression += f" AND {RUNTIME_LICENSE}"
    return str(canonicalize_license_expression(expression))


def describe(provenance: Provenance, bundled: Sequence[BundledLibrary] = ()) -> tuple[str, str]:
    """The two lines of METADATA that say what a wheel is and who made it."""
    source, target = provenance.source, provenance.target
    count = provenance.patch_count
    patches = f"{count or 'no'} patch{'' if count == 1 else 'es'}"
    if source.verified:
        what = f"release {source.tag or source.version}, verified by SHA-256, {patches}"
    else:
        facts = [f"{source.kind} {public_location(source)}"]
        facts += [f"commit {source.commit}"] if source.commit else []
        facts += [f"sha256 {source.sha256}"] if source.sha256 else []
        what = f"from an unverified source: {', '.join(facts)}; {patches}"
    runtime = " It brings the CUDA runtime along." if bundled else ""
    torch = f"torch {target.torch_minimum} and newer" if target.stable else f"torch {target.torch_series}"
    first = (
        f"{_OPENING} An unofficial build of SageAttention {source.version} ({what}) for CUDA {target.cuda}, "
        f"{torch}, and compute capabilities {join(provenance.architectures)}.{runtime}"
    )
    project = provenance.project
    maker = f"[{project.name}]({project.url})" if project.url else project.name
    revision = f" at {project.revision}" if project.revision else ""
    second = f"> Made by {maker}{revision}; all that went in: `sboms` and `patches` in its `.dist-info`."
    return first, second


def public_location(source: Source) -> str:
    """Where a source came from, without what is private: folders of the build machine, passwords, queries."""
    if source.kind in {"release", "url"}:
        parts = urlsplit(source.location)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return PurePosixPath(source.location).name or source.kind


def edit_metadata(
    metadata: bytes, expression: str, license_files: Iterable[str], about: tuple[str, str], project_url: str
) -> bytes:
    """Put licence, project and description of a build into METADATA; all else stays as it is.

    `License` and the licence classifiers go: they may not stand beside a licence expression (PEP 639).

    Args:
        metadata: The file's bytes.
        expression: SPDX.
        license_files: Paths under `*.dist-info/licenses/`.
        about: Two lines for the top of the description.
        project_url: Address to link; empty for none.

    Returns:
        The new bytes; editing them once more changes nothing.
    """
    head, _, body = metadata.decode("utf-8", "surrogateescape").replace("\r\n", "\n").partition("\n\n")
    fields = _fields(head)
    label = "Wheel build"
    kept = [
        (name, value)
        for name, value in fields
        if name not in _WRITTEN_ANEW
        and not (name == "Classifier" and value.startswith("License ::"))
        and not (name == "Project-URL" and value.startswith(f"{label},"))
    ]
    old = next((value for name, value in fields if name == "Metadata-Version"), "2.1")
    version = max(tuple(map(int, old.split("."))), _METADATA_VERSION)
    new = [("Metadata-Version", ".".join(map(str, version))), *kept, ("License-Expression", expression)]
    new += [("License-File", name) for name in license_files]
    new += [("Project-URL", f"{label}, {project_url}")] if project_url else []
    content_type = next(
        (value for name, value in fields if name == "Description-Content-Type"), "text/markdown"
    )
    new.append(("Description-Content-Type", content_type))
    if body.startswith(_OPENING):
        body = body.partition("\n\n")[2]
    lines = [f"{name}: {value}" for name, value in new]
    text = "\n".join(lines) + "\n\n" + "\n".join(about) + "\n\n" + body
    return text.encode("utf-8", "surrogateescape")


def _fields(head: str) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in head.split("\n"):
        if line[:1] in {" ", "\t"} and fields:
            name, value = fields[-1]
            fields[-1] = (name, f"{value}\n{line}")
        elif line:
            name, _, value = line.partition(":")
            fields.append((name, value.strip()))
    return fields


def _licenses(wheel: Wheel) -> tuple[dict[str, bytes], list[str]]:
    """Licence texts of the wheel by their name under `licenses/`, and what they are called in the wheel."""
    licenses: dict[str, bytes] = {}
    moved: list[str] = []
    for name in wheel.names:
        inside = name.removeprefix(f"{wheel.dist_info}/")
        if inside in {name, f"licenses/{RUNTIME_LICENSE_FILE}"}:
            continue
        if inside.startswith("licenses/") or ("/" not in inside and _LICENSE_NAMES.fullmatch(inside)):
            licenses[inside.removeprefix("licenses/")] = wheel.read(name)
            moved.append(name)
    return licenses, moved


def _subject(wheel: Wheel, expression: str, provenance: Provenance) -> Material:
    version = wheel.name.version.replace("_", ".")
    purl = f"pkg:pypi/{wheel.name.distribution.lower()}@{quote(version)}?file_name={quote(wheel.path.name)}"
    target = provenance.target
    properties = (
        ("abi", target.abi),
        ("architectures", join(provenance.architectures, " ")),
        ("cuda", target.cuda),
        ("target", target.name),
        ("torch", target.torch_requirement),
    )
    return Material(
        "wheel", wheel.name.distribution, version, purl=purl, license=expression, properties=properties
    )


def _materials(provenance: Provenance) -> list[Material]:
    source = provenance.source
    verified = ("verified", "true" if source.verified else "false")
    facts = [("commit", source.commit)] if source.commit else []
    location = public_location(source)
    if "://" not in location:
        facts.append(("location", location))
    return [
        Material(
            "source",
            "SageAttention",
            source.version,
            source.sha256,
            f"pkg:github/thu-ml/sageattention@{source.tag}" if source.verified and source.tag else "",
            source.license,
            location if "://" in location else "",
            (*facts, ("source", source.kind), verified),
        ),
        *provenance.tools,
    ]


def _contents(wheel: Wheel, bundled: Sequence[BundledLibrary], provenance: Provenance) -> list[Material]:
    found = [
        Material(
            "patch" if _ENTRY_NAME.fullmatch(patch.name) else "patch-file",
            wheel.in_dist_info(f"patches/{patch.name}"),
            sha256=patch.sha256,
            properties=(("summary", patch.summary),) if patch.summary else (),
        )
        for patch in provenance.patches
    ]
    taken_along = {library.path: library for library in bundled}
    for name in wheel.elf_names():
        data = wheel.read(name)
        digest = hashlib.sha256(data).hexdigest()
        library = taken_along.get(name)
        if library is None:
            codes = read_fatbin(read_elf(data, name).fatbin)
            properties = (("architectures", join(cubin_architectures(codes), " ")),)
            found.append(Material("extension", name, sha256=digest, properties=properties))
            continue
        purl = f"pkg:pypi/{library.package}@{quote(library.version)}" if library.package else ""
        properties_of_copy = (("original-sha256", library.original_sha256), ("path", name))
        found.append(
            Material(
                "library",
                library.soname,
                library.version,
                digest,
                purl,
                RUNTIME_LICENSE,
                "",
                properties_of_copy,
            )
        )
    return found


def provenance_of(wheel: Wheel) -> dict[str, str]:
    """What a wheel's own SBOM says of it as a whole (abi, architectures, cuda, target, torch); empty without.

    Raises:
        ValueError: The SBOM is no CycloneDX document.
    """
    name = wheel.in_dist_info(f"sboms/{SBOM_NAME}")
    if name not in wheel.names:
        return {}
    document = json.loads(wheel.read(name))
    try:
        properties = document["metadata"]["component"]["properties"]
        return {entry["name"].partition(":")[2]: entry["value"] for entry in properties}
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it says nothing of the wheel") from None
