"""Writes into a built wheel how it was made: SBOM, patches, licences and two lines of description.

Sources: PEP 770 (SBOMs in wheels), PEP 639 (licence expression and files), and the PyPA "Core metadata
specifications".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from urllib.parse import quote

from builder.source.obtain import Source
from builder.target.architectures import Architecture, join
from builder.target.project import Project
from builder.target.targets import Target
from builder.util.errors import RepairError
from builder.wheel.elf import is_elf, read_elf
from builder.wheel.fatbin import cubin_architectures, read_fatbin
from builder.wheel.libraries import RUNTIME_LICENSE
from builder.wheel.sbom import SBOM_NAME, Component, serialize
from builder.wheel.wheelfile import RECORD_FILES, Wheel, write_wheel

_REPLACED = {"License", "License-Expression", "License-File", "Description-Content-Type"}


@dataclass(frozen=True)
class Provenance:
    """How a wheel was made.

    Attributes:
        patches: Name -> content of each file of the patch series, such as `files/build_extensions.py`.
        summaries: Name of each entry that was applied, such as `0001-build.toml` -> what it changed.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
    """

    target: Target
    architectures: tuple[Architecture, ...]
    source: Source
    patches: Mapping[str, bytes]
    summaries: Mapping[str, str]
    tools: tuple[Component, ...]
    project: Project
    epoch: int


def embed(
    wheel: Path,
    provenance: Provenance,
    out_dir: Path,
    *,
    bundled: Sequence[Component] = (),
    runtime_license: bytes = b"",
) -> Path:
    """Write a built or repaired wheel again with its SBOM, patches, licences and description; return it.

    A wheel with a bundled CUDA runtime needs NVIDIA's terms for it.
    """
    project = provenance.project
    with Wheel(wheel) as opened:
        content = {name: opened.read(name) for name in opened.names}
    in_dist_info = opened.in_dist_info
    # RECORD is made anew. auditwheel's own SBOM names folders of this machine; what it lists is in ours.
    for name in (*RECORD_FILES, "sboms/auditwheel.cdx.json"):
        content.pop(in_dist_info(name), None)
    expression = provenance.source.license
    if bundled:
        content[in_dist_info("licenses/nvidia-cuda-runtime/License.txt")] = runtime_license
        expression += f" AND {RUNTIME_LICENSE}"
    content |= {in_dist_info(f"patches/{name}"): text for name, text in provenance.patches.items()}
    start = in_dist_info("licenses/")
    licenses = sorted(name.removeprefix(start) for name in content if name.startswith(start))
    description = _describe(provenance, runtime=bool(bundled))
    metadata = in_dist_info("METADATA")
    content[metadata] = _edit_metadata(
        content[metadata].decode(), expression, licenses, description, project.url
    )
    own = {name: content[name] for name in content.keys() - {part.path for part in bundled}}
    content[in_dist_info(f"sboms/{SBOM_NAME}")] = serialize(
        _subject(opened, expression, provenance),
        [_source(provenance.source), *provenance.tools, *bundled, *_files(opened, own, provenance)],
        made_by=Component("build-tool", project.name, project.revision, url=project.url),
        epoch=provenance.epoch,
    )
    return write_wheel(out_dir / wheel.name, content, epoch=provenance.epoch)


def runtime_license_text(site_packages: Path) -> bytes:
    """Return NVIDIA's terms for the CUDA runtime, from its installed package."""
    for path in sorted(site_packages.glob("nvidia_cuda_runtime*.dist-info/**/*")):
        if path.name.lower().startswith("license") and path.is_file():
            return path.read_bytes()
    problem = f"NVIDIA's terms for the CUDA runtime, which the wheel bundles, are not in {site_packages}."
    raise RepairError(problem, "They are in the package nvidia-cuda-runtime, which torch requires.")


def _describe(provenance: Provenance, *, runtime: bool) -> str:
    """Return the two lines of METADATA that say what a wheel is and who made it."""
    source, target, project = provenance.source, provenance.target, provenance.project
    count = len(provenance.summaries)
    patches = f"{count or 'no'} patch{'' if count == 1 else 'es'}"
    if source.verified:
        origin = f"release {source.tag}, verified by SHA-256, {patches}"
    else:
        commit = f", commit {source.commit}" if source.commit else ""
        origin = f"{source.kind} {source.location}{commit}, sha256 {source.sha256}"
        origin = f"from an unverified source: {origin}; {patches}"
    torch = f"torch {target.torch_minimum} and newer" if target.stable else f"torch {target.torch_series}"
    maker = f"[{project.name}]({project.url})" if project.url else project.name
    revision = f" at {project.revision}" if project.revision else ""
    return (
        f"> **About this wheel.** An unofficial build of SageAttention {source.version} ({origin}) for "
        f"CUDA {target.cuda}, {torch}, and compute capabilities {join(provenance.architectures)}."
        f"{' It brings the CUDA runtime along.' if runtime else ''}\n"
        f"> Made by {maker}{revision}; all that went in: `sboms` and `patches` in its `.dist-info`."
    )


def _edit_metadata(
    metadata: str, expression: str, license_files: Iterable[str], description: str, project_url: str
) -> bytes:
    """Return METADATA with licence, project and description of a build; all else stays as it is.

    `License` and the licence classifiers are removed: a licence expression replaces them (PEP 639).
    """
    message = message_from_string(metadata)
    fields = [
        (name, value.strip())
        for name, value in message.items()
        if name not in _REPLACED and not (name == "Classifier" and value.startswith("License ::"))
    ]
    fields += [("License-Expression", expression), *(("License-File", name) for name in license_files)]
    fields += [("Project-URL", f"Wheel build, {project_url}")] if project_url else []
    fields.append(("Description-Content-Type", message.get("Description-Content-Type", "text/markdown")))
    head = "\n".join(f"{name}: {value}" for name, value in fields)
    return f"{head}\n\n{description}\n\n{message.get_payload()}".encode()


def _subject(wheel: Wheel, expression: str, provenance: Provenance) -> Component:
    version = wheel.label.version.replace("_", ".")
    purl = f"pkg:pypi/{wheel.label.distribution.lower()}@{quote(version)}?file_name={quote(wheel.path.name)}"
    target = provenance.target
    properties = {
        "abi": target.abi,
        "architectures": join(provenance.architectures, " "),
        "cuda": target.cuda,
        "target": target.name,
        "torch": target.torch_requirement,
    }
    return Component(
        "wheel", wheel.label.distribution, version, purl=purl, license=expression, properties=properties
    )


def _source(source: Source) -> Component:
    purl = f"pkg:github/thu-ml/sageattention@{source.tag}" if source.verified else ""
    url = source.location if "://" in source.location else ""
    properties = {"source": source.kind, "verified": "true" if source.verified else "false"}
    properties |= {"commit": source.commit} if source.commit else {}
    properties |= {} if url else {"location": source.location}
    return Component(
        "source", "SageAttention", source.version, source.sha256, purl, source.license, url, properties
    )


def _files(wheel: Wheel, content: Mapping[str, bytes], provenance: Provenance) -> list[Component]:
    """Return each file of the finished wheel but the bundled ones, for what it is."""
    components = []
    patches = {wheel.in_dist_info(f"patches/{name}"): name for name in provenance.patches}
    for name, data in content.items():
        kind, properties = "file", {}
        if summary := provenance.summaries.get(patches.get(name, "")):
            kind, properties = "patch", {"summary": summary}
        elif name in patches:
            kind = "patch-file"
        elif is_elf(data):
            cubins = cubin_architectures(read_fatbin(read_elf(data, name).fatbin))
            kind, properties = "extension", {"architectures": join(cubins, " ")}
        sha256 = hashlib.sha256(data).hexdigest()
        components.append(Component(kind, name, sha256=sha256, properties=properties))
    return components
