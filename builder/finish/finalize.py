"""Finishes a wheel: writes into it what it is made of, with bytes that can be reproduced.

Sources: PEP 770 (SBOMs in wheels) and PEP 639 (licence files).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from urllib.parse import quote

from builder.finish.core_metadata import RUNTIME_LICENSE, edit_metadata, license_expression
from builder.finish.provenance import Provenance, describe
from builder.finish.repair import BundledLibrary
from builder.finish.sbom import SBOM_NAME, listed_in_sbom, make_sbom, without_build_paths
from builder.target.architectures import join
from builder.toolchain.materials import Material
from builder.util.errors import RepairError
from builder.wheel.elf import read_elf
from builder.wheel.fatbin import cubin_architectures, read_fatbin
from builder.wheel.rewrite import rewrite
from builder.wheel.wheelfile import SIGNATURES, Wheel

_AUDITWHEELS_SBOM = "auditwheel.cdx.json"
RUNTIME_LICENSE_FILE = "nvidia-cuda-runtime/License.txt"
_LICENSE_NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)([.-].*)?", re.IGNORECASE)


def runtime_license_text(site_packages: Path) -> bytes | None:
    """Return NVIDIA's terms from the installed package of the CUDA runtime; None without that package."""
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
    """Write a built or repaired wheel again with its SBOM, patches, licences and description; return it.

    Args:
        wheel: What the build or auditwheel made; stays as it is.
        provenance: How it was made.
        out_dir: Where the finished wheel goes.
        bundled: The libraries that auditwheel copied into it.
        runtime_license: NVIDIA's terms; needed if the CUDA runtime is bundled.

    Raises:
        RepairError: The CUDA runtime is bundled, and its terms are missing.
        WheelError: The wheel can't be read.
    """
    if bundled and runtime_license is None:
        raise RepairError(
            f"The wheel bundles {bundled[0].soname}, and NVIDIA's terms for it were not found.",
            "They are in the package nvidia-cuda-runtime, which torch requires: install torch.",
        )
    with Wheel(wheel) as opened:
        licenses, moved = _licenses(opened)
        if bundled and runtime_license is not None:
            licenses[RUNTIME_LICENSE_FILE] = runtime_license
        expression = license_expression(provenance.source.license, runtime=bool(bundled))
        add = {opened.in_dist_info(f"licenses/{name}"): text for name, text in licenses.items()}
        add |= {opened.in_dist_info(f"patches/{patch.name}"): patch.content for patch in provenance.patches}
        project, about = provenance.project, describe(provenance, runtime=bool(bundled))
        metadata = opened.in_dist_info("METADATA")
        add[metadata] = edit_metadata(opened.read(metadata), expression, sorted(licenses), about, project.url)
        auditwheels_own = opened.in_dist_info(f"sboms/{_AUDITWHEELS_SBOM}")
        if auditwheels_own in opened.names:
            add[auditwheels_own] = without_build_paths(opened.read(auditwheels_own))
        removed = {name for name in moved if name not in add}
        materials = [_source(provenance), *provenance.tools]
        materials += [*_patches(opened, provenance), *_libraries(opened, bundled)]
        materials += _files(opened, add, {*removed, *(part.fact("path") or part.name for part in materials)})
        add[opened.in_dist_info(f"sboms/{SBOM_NAME}")] = make_sbom(
            _subject(opened, expression, provenance),
            materials,
            made_by=Material("build-tool", project.name, project.revision, url=project.url),
            epoch=provenance.epoch,
        )
    return rewrite(wheel, out_dir, add=add, remove=removed, epoch=provenance.epoch)


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


def _source(provenance: Provenance) -> Material:
    source = provenance.source
    is_address = "://" in source.location
    facts = [("commit", source.commit)] if source.commit else []
    facts += [] if is_address else [("location", source.location)]
    facts += [("source", source.kind), ("verified", "true" if source.verified else "false")]
    return Material(
        "source",
        "SageAttention",
        source.version,
        source.sha256,
        f"pkg:github/thu-ml/sageattention@{source.tag}" if source.verified and source.tag else "",
        source.license,
        source.location if is_address else "",
        tuple(facts),
    )


def _patches(wheel: Wheel, provenance: Provenance) -> list[Material]:
    return [
        Material(
            "patch" if patch.summary else "patch-file",
            wheel.in_dist_info(f"patches/{patch.name}"),
            sha256=patch.sha256,
            properties=(("summary", patch.summary),) if patch.summary else (),
        )
        for patch in provenance.patches
    ]


def _files(wheel: Wheel, add: Mapping[str, bytes], listed: Set[str]) -> list[Material]:
    """All files that the finished wheel has besides those that are listed for what they are."""
    names = {*listed_in_sbom(wheel), *add} - {*listed, *map(wheel.in_dist_info, SIGNATURES)}
    contents = {name: add[name] if name in add else wheel.read(name) for name in names}
    return [
        Material("file", name, sha256=hashlib.sha256(data).hexdigest()) for name, data in contents.items()
    ]


def _libraries(wheel: Wheel, bundled: Sequence[BundledLibrary]) -> list[Material]:
    copies = {library.path: library for library in bundled}
    found = []
    for name in wheel.elf_names():
        data = wheel.read(name)
        sha256 = hashlib.sha256(data).hexdigest()
        if copy := copies.get(name):
            purl = f"pkg:pypi/{copy.package}@{quote(copy.version)}" if copy.package else ""
            facts = (("original-sha256", copy.original_sha256), ("path", name))
            found.append(
                Material("library", copy.soname, copy.version, sha256, purl, RUNTIME_LICENSE, "", facts)
            )
        else:
            cubins = join(cubin_architectures(read_fatbin(read_elf(data, name).fatbin)), " ")
            found.append(Material("extension", name, sha256=sha256, properties=(("architectures", cubins),)))
    return found
