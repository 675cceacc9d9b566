"""Writes into a built wheel how it was made: SBOM, patches, licences and two lines of description.

Sources: PEP 770 (SBOMs in wheels), PEP 639 (licence expression and files), and the PyPA "Core metadata
specifications".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from urllib.parse import quote

from packaging.licenses import canonicalize_license_expression
from packaging.version import Version

from builder.source.obtain import Source
from builder.target.architectures import Architecture, join
from builder.target.project import Project
from builder.target.targets import Target
from builder.util.errors import RepairError
from builder.wheel.elf import is_elf, read_elf
from builder.wheel.fatbin import cubin_architectures, read_fatbin
from builder.wheel.libraries import RUNTIME_LICENSE
from builder.wheel.sbom import SBOM_NAME, Component, serialize
from builder.wheel.wheelfile import RECORD_FILES, Wheel
from builder.wheel.write import write_wheel

# What the two lines of the description start with.
OPENING = "> **About this wheel.**"
RUNTIME_LICENSE_FILE = "nvidia-cuda-runtime/License.txt"
_LICENSE_NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)([.-][^/]*)?", re.IGNORECASE)
_METADATA_VERSION = Version("2.4")  # the first with License-Expression and License-File
_REPLACED_FIELDS = {"License", "License-Expression", "License-File", "Metadata-Version"}


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
    runtime_license: bytes | None = None,
) -> Path:
    """Write a built or repaired wheel again with its SBOM, patches, licences and description; return it.

    A wheel with a bundled CUDA runtime needs NVIDIA's terms for it.
    """
    project = provenance.project
    with Wheel(wheel) as opened:
        content = {name: opened.read(name) for name in opened.names}
        # RECORD is made anew. auditwheel's own SBOM names folders of this machine; what it lists is in ours.
        for name in (*RECORD_FILES, "sboms/auditwheel.cdx.json"):
            content.pop(opened.in_dist_info(name), None)
        licenses: dict[str, bytes] = {}
        for name in opened.names:
            folder, _, inside = name.partition("/")
            is_license = inside.startswith("licenses/") or _LICENSE_NAMES.fullmatch(inside)
            if folder == opened.dist_info and is_license:
                licenses[inside.removeprefix("licenses/")] = content.pop(name)
        expression = provenance.source.license
        if bundled:
            if runtime_license is None:
                raise RepairError(
                    f"The wheel bundles {bundled[0].name}, and NVIDIA's terms for it were not found.",
                    "They are in the package nvidia-cuda-runtime, which torch requires: install torch.",
                )
            licenses[RUNTIME_LICENSE_FILE] = runtime_license
            expression = f"({expression})" if " OR " in expression else expression
            expression += f" AND {RUNTIME_LICENSE}"
        expression = str(canonicalize_license_expression(expression))
        content |= {opened.in_dist_info(f"licenses/{name}"): text for name, text in licenses.items()}
        content |= {opened.in_dist_info(f"patches/{name}"): text for name, text in provenance.patches.items()}
        metadata = opened.in_dist_info("METADATA")
        description = describe(provenance, runtime=bool(bundled))
        content[metadata] = _edit_metadata(
            content[metadata].decode(), expression, sorted(licenses), description, project.url
        )
        own = {name: content[name] for name in content.keys() - {part.path for part in bundled}}
        content[opened.in_dist_info(f"sboms/{SBOM_NAME}")] = serialize(
            _subject(opened, expression, provenance),
            [_source(provenance.source), *provenance.tools, *bundled, *_files(opened, own, provenance)],
            made_by=Component("build-tool", project.name, project.revision, url=project.url),
            epoch=provenance.epoch,
        )
    return write_wheel(out_dir / wheel.name, content, epoch=provenance.epoch)


def describe(provenance: Provenance, *, runtime: bool) -> str:
    """Return the two lines of METADATA that say what a wheel is and who made it."""
    source, target, project = provenance.source, provenance.target, provenance.project
    count = len(provenance.summaries)
    patches = f"{count or 'no'} patch{'' if count == 1 else 'es'}"
    if source.verified:
        origin = f"release {source.tag or source.version}, verified by SHA-256, {patches}"
    else:
        facts = [f"{source.kind} {source.location}"]
        facts += [f"commit {source.commit}"] if source.commit else []
        facts += [f"sha256 {source.sha256}"] if source.sha256 else []
        origin = f"from an unverified source: {', '.join(facts)}; {patches}"
    torch = f"torch {target.torch_minimum} and newer" if target.stable else f"torch {target.torch_series}"
    maker = f"[{project.name}]({project.url})" if project.url else project.name
    revision = f" at {project.revision}" if project.revision else ""
    return (
        f"{OPENING} An unofficial build of SageAttention {source.version} ({origin}) for CUDA {target.cuda}, "
        f"{torch}, and compute capabilities {join(provenance.architectures)}."
        f"{' It brings the CUDA runtime along.' if runtime else ''}\n"
        f"> Made by {maker}{revision}; all that went in: `sboms` and `patches` in its `.dist-info`."
    )


def runtime_license_text(site_packages: Path) -> bytes | None:
    """Return NVIDIA's terms from the installed package of the CUDA runtime; None without that package."""
    for folder in sorted(site_packages.glob("nvidia_cuda_runtime*.dist-info")):
        for name in ("licenses/License.txt", "License.txt", "licenses/LICENSE", "LICENSE"):
            if (folder / name).is_file():
                return (folder / name).read_bytes()
    return None


def _edit_metadata(
    metadata: str, expression: str, license_files: Iterable[str], description: str, project_url: str
) -> bytes:
    """Return METADATA with licence, project and description of a build; all else stays as it is.

    `License` and the licence classifiers are removed: a licence expression replaces them (PEP 639).
    """
    message = message_from_string(metadata)
    version = max(Version(message["Metadata-Version"]), _METADATA_VERSION)
    fields = [("Metadata-Version", str(version))]
    fields += [
        (name, value.strip())
        for name, value in message.items()
        if name not in {*_REPLACED_FIELDS, "Description-Content-Type"}
        and not (name == "Classifier" and value.startswith("License ::"))
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
    is_address = "://" in source.location
    properties = {"source": source.kind, "verified": "true" if source.verified else "false"}
    properties |= {"commit": source.commit} if source.commit else {}
    properties |= {} if is_address else {"location": source.location}
    return Component(
        "source",
        "SageAttention",
        source.version,
        source.sha256,
        f"pkg:github/thu-ml/sageattention@{source.tag}" if source.verified and source.tag else "",
        source.license,
        source.location if is_address else "",
        properties,
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
