"""Writes and reads the software bill of materials in a wheel.

It is CycloneDX 1.6 in `*.dist-info/sboms/` (PEP 770). Equal builds give equal bytes: the serial number is a
digest of the content, and the time is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import (
    Component,
    ComponentScope,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
)
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.toolchain.materials import Material
from builder.wheel.wheelfile import Wheel

SBOM_NAME = "sageattention.cdx.json"
# Prefix of the properties that this project writes.
_PROPERTY = "sageattention-wheel"

_TYPES = {
    "source": ComponentType.LIBRARY,
    "patch": ComponentType.FILE,
    "patch-file": ComponentType.FILE,
    "build-tool": ComponentType.APPLICATION,
    "extension": ComponentType.FILE,
    "library": ComponentType.LIBRARY,
}


def make_sbom(subject: Material, materials: Iterable[Material], *, made_by: Material, epoch: int) -> bytes:
    """Return the bill of materials of a wheel, as JSON; the same bytes for the same arguments.

    Args:
        subject: The wheel as a package.
        materials: What went into it. The source and the patches also become the subject's pedigree.
        made_by: The tool that built it.
        epoch: Its time, seconds since 1970.
    """
    ordered = sorted(set(materials))
    sources = [part for part in ordered if part.kind == "source"]
    root = _component(subject, ComponentType.LIBRARY)
    root.pedigree = Pedigree(
        ancestors=[_component(part, ref=f"ancestor:{part.name}") for part in sources],
        patches=[
            Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(url=XsUri(part.name)))
            for part in ordered
            if part.kind == "patch"
        ],
    )
    tool = _component(made_by, ComponentType.APPLICATION)
    components = [_component(part) for part in ordered]
    digest = hashlib.sha256(repr((subject, ordered, made_by, epoch)).encode()).hexdigest()
    bom = Bom(
        components=components,
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.fromtimestamp(epoch, tz=timezone.utc),
            tools=ToolRepository(components=[tool]),
        ),
        serial_number=uuid5(NAMESPACE_URL, digest),
    )
    bom.register_dependency(root, components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text.encode() + b"\n"


def _component(part: Material, kind: ComponentType | None = None, ref: str = "") -> Component:
    return Component(
        type=kind or _TYPES[part.kind],
        name=part.name,
        version=part.version or None,
        bom_ref=ref or f"{part.kind}:{part.name}{'@' if part.version else ''}{part.version}",
        scope=ComponentScope.EXCLUDED if part.kind == "build-tool" else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else None,
        licenses=[LicenseExpression(value=part.license)] if part.license else None,
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        external_references=[
            ExternalReference(type=ExternalReferenceType.SOURCE_DISTRIBUTION, url=XsUri(part.url))
        ]
        if part.url
        else None,
        properties=[Property(name=f"{_PROPERTY}:kind", value=part.kind)]
        + [Property(name=f"{_PROPERTY}:{name}", value=value) for name, value in part.properties],
    )


def read_sbom(data: bytes) -> tuple[Material, ...]:
    """Return the components of a bill of materials in JSON: kind, name, version, SHA-256 and properties.

    Raises:
        ValueError: It is not a CycloneDX document.
    """
    try:
        document = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise ValueError("not a CycloneDX document")
    components = document.get("components", [])
    if not isinstance(components, list) or not all(isinstance(part, dict) for part in components):
        raise ValueError("its components are not a list of objects")
    return tuple(_read_component(part) for part in components)


def _read_component(part: Mapping[str, Any]) -> Material:
    hashes = {str(entry.get("alg")): str(entry.get("content")) for entry in _objects(part, "hashes")}
    properties = {
        str(entry.get("name", "")).removeprefix(f"{_PROPERTY}:"): str(entry.get("value", ""))
        for entry in _objects(part, "properties")
    }
    return Material(
        kind=properties.pop("kind", ""),
        name=str(part.get("name", "")),
        version=str(part.get("version", "")),
        sha256=hashes.get("SHA-256", "").lower(),
        properties=tuple(sorted(properties.items())),
    )


def _objects(part: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = part.get(key, [])
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def provenance_of(wheel: Wheel) -> dict[str, str]:
    """Return what a wheel's own SBOM says of the whole: abi, architectures, cuda, target and torch.

    Raises:
        ValueError: The SBOM is not a CycloneDX document.
        WheelError: It is damaged.
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


def sbom_problems(
    materials: Sequence[Material], files: Mapping[str, str], *, must_list: Iterable[str]
) -> list[str]:
    """Return how a bill of materials and a wheel's content differ, one sentence each; empty if they agree.

    Args:
        materials: What `read_sbom` returned.
        files: Archive name -> SHA-256 of every file of the wheel.
        must_list: Archive names that have to be in it: all shared libraries and patches.
    """
    problems: list[str] = []
    listed = {part.fact("path") or part.name: part for part in materials}
    kinds = {"extension", "library", "patch", "patch-file"}
    in_wheel = {name: part for name, part in listed.items() if part.kind in kinds}
    for name, part in sorted(in_wheel.items()):
        if name not in files:
            problems.append(f"{name} is in the SBOM and not in the wheel")
        elif part.sha256 != files[name]:
            problems.append(f"{name} has a different SHA-256 in the SBOM")
    problems += [
        f"{name} is in the wheel and not in the SBOM" for name in sorted(must_list) if name not in in_wheel
    ]
    return problems


def without_build_paths(data: bytes) -> bytes:
    """Return auditwheel's own SBOM without what differs from folder to folder.

    Its references end in a digest of the path that a library was copied from. Here they end in a digest of
    their place in the list. All else stays.

    Raises:
        ValueError: It is not a JSON object.
    """
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    new_names: dict[str, str] = {}
    for number, part in enumerate(_objects(document, "components")):
        old = str(part.get("bom-ref", ""))
        base, _, digest = old.partition("#")
        if digest:
            new_names[old] = f"{base}#{hashlib.sha256(f'{number} {base}'.encode()).hexdigest()}"
    text = json.dumps(document, indent=2, sort_keys=True)
    for old, new in new_names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return text.encode() + b"\n"
